"""Encoders: networks, and the folder that stores one with its preprocessing."""

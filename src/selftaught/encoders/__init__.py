"""Encoders: networks, and the folder in which one is saved with its preprocessing."""

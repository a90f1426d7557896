"""Evaluation: one file a protocol; the registry imports none until it is asked for."""

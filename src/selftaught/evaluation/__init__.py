"""Evaluation: one file per protocol; the registry imports a protocol on first use."""

"""Vectors of images: computed, read, written and opened."""

"""Vectors to clusters: tensors in, tensors out."""

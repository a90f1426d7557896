"""A search index of vectors, exact or with faiss, and verification of its results."""

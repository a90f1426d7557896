"""An index of vectors: built, added to, opened, and searched exactly or with faiss."""

"""Saved clusters: fitting, naming, matching, assigning new images; outliers and near-duplicates."""

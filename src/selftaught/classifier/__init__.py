"""CLASSIFIER: names learned from clusters and from answers."""

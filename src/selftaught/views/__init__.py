"""Views: their operations (policy), their random parameters (sample), their pixels (tensors)."""

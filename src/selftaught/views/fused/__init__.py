"""The fused kernel, compiled by numba: a view from raw pixels in one go, in the canonical order."""

"""The fused kernel, compiled by numba: a view from raw pixels in one pass, in canonical order."""

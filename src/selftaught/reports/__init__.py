"""Report: one stylesheet, a list of sections, plots and contact sheets."""

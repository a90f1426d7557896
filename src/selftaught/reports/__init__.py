"""HTML reports: one style sheet, sections, plots and contact sheets."""

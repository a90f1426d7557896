"""CLUSTERS/report.html."""

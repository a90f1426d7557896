"""CLASSIFIER/report.html and ask.html."""

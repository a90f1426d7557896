"""RUN/report.html."""

"""A page for each method, from docstrings and records."""

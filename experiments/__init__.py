"""Experiments: one file answers one question; see README.md. Not installed, imported by nothing."""

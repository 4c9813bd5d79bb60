"""Choosing blocks: selection from scores."""

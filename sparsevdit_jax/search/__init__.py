"""Choosing blocks: scores, and selection from them."""

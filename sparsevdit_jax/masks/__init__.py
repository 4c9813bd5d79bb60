"""Masks over blocks: how they are made and how they look."""

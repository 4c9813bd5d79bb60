"""Offline search: measure what every candidate pattern does to every head, then choose."""

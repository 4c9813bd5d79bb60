"""Search ahead of a run: measure what every candidate pattern does to every head, then choose."""

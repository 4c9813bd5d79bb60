"""Search before a run: measure what every candidate pattern does to every head, then choose."""

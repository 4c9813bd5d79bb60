"""One step on several H200s: compiled without them, and predicted."""

"""One agent: what it receives, what it submits, what it owes, and when its patience ends."""

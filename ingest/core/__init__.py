"""The pure half: what can be said of messages without I/O, clock, chance or logging."""

"""What becomes of those who lie, and of those in whose name they do? Measured at size, on real servers and workers."""

"""What runs it: the software it needs, and the servers that it can run by itself."""

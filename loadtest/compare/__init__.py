"""Is it fast? Side by side in one run: what most people would write, the product, and what cannot be avoided."""

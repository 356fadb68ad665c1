"""Is the promise kept on real servers, while they and the workers are ill-treated? Asked by `weighbridge chaos`."""

"""Is the promise kept whatever happens? The real loop over twins in memory, in virtual time, from a seed."""

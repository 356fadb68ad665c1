"""One room for each thing that we talk to."""

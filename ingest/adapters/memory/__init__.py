"""Twins of the log and the store in memory, for the simulation only, under the same contract tests as the real ones."""

"""Weighbridge: verify, judge and store vehicle telemetry, with a reason for every message."""

"""Observation of kvseal: audit records, counters, telemetry, and events of long work."""

"""What kvseal lets others see: audit records, counters, telemetry and events of long work."""

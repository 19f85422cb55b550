"""The commands on records and stored entries."""

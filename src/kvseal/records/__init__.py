"""The wrapper of a store, and access to single records by name."""

"""The wrapper over a store, and single records by name."""

"""Envelope encryption without I/O: key derivation, key wrapping, records."""

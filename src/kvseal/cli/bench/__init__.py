"""`vaultctl bench`."""

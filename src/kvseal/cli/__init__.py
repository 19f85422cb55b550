"""vaultctl: each command calls one library function."""

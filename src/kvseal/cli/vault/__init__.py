"""The commands on the vault and its keys."""

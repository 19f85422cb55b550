"""The keys of a vault and the vault meta that holds them; nothing here accesses a store."""

"""The vault on a store: create and open it, change its keys, follow what other processes change."""

"""Changes of an open vault that take more than one step: the secret, the root key, the keyslots."""

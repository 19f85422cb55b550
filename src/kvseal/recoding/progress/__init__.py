"""How far a recode has come, as stored beside the vault meta: the checkpoint, with the lease in it."""

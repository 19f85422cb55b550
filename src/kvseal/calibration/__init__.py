"""Argon2id costs: measure them on this machine and choose one."""

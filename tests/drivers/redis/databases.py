"""Databases of a real server, as RedisStore and other programs fill them."""

from __future__ import annotations

NAMELESS = b'{"created_at": "2023-01-01T00:00:00+00:00", "value": {"n": 1}, "version": 1}'


PASSWORD = "hunter2"

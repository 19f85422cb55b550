"""
The tests on other Pythons and with other releases of py-key-value-aio: `nox -l` lists the sessions.

A session needs its interpreter and nothing else: on the PATH, or among those of pyenv. `nox -s tests`
runs every pair whose interpreter is there, `nox -s smoke` the oldest and the newest of them, as CI does,
with fewer tests.
"""

from __future__ import annotations

import re

import nox

PYTHONS = ("3.10", "3.11", "3.12", "3.13")
STORES = ("0.4.5", "0.4.6", "0.5.0")
"""Releases of py-key-value-aio; the last one is that of constraints.txt."""

SMOKE = ("not servers and not processes and not long",)
PINNED = re.compile(r"^py-key-value-aio==.*$", re.MULTILINE)

nox.needs_version = ">=2024.4"
nox.options.sessions = ["smoke"]
nox.options.default_venv_backend = "venv"

"""The two services, and an environment in which nothing of this machine leads to another one."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from tests.kms_server import REGION, KmsServer
from tests.transit_server import ROOT_TOKEN, TransitKeyRing, TransitServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def _no_service_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep every test away from the tokens, credentials and proxies of whoever runs it."""
    for name in [*os.environ]:
        if name.startswith(("AWS_", "VAULT_", "BAO_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture
def transit(monkeypatch: pytest.MonkeyPatch) -> Iterator[TransitServer]:
    """Yield a transit engine with the key `transit/kv`, which the environment leads to."""
    with TransitServer() as server:
        server.keys["transit", "kv"] = TransitKeyRing()
        monkeypatch.setenv("VAULT_ADDR", server.url)
        monkeypatch.setenv("VAULT_TOKEN", ROOT_TOKEN)
        yield server


@pytest.fixture(scope="session")
def moto() -> Iterator[KmsServer]:
    """Yield moto's server: one for all tests, each of which makes keys of its own."""
    with KmsServer() as server:
        yield server


@pytest.fixture
def kms(moto: KmsServer, monkeypatch: pytest.MonkeyPatch) -> KmsServer:
    """Return moto's server, which the environment leads to."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto.url)
    monkeypatch.setenv("AWS_REGION", REGION)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    return moto

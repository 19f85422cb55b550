"""A transit key, asked through hvac over HTTP."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

import pytest
from tests.servers import free_port
from tests.transit_server import ROOT_TOKEN, TransitKeyRing, TransitServer
from tests.wrapkeys.contract import CONTEXT, KEY, WrapKeyContract

from kvseal.envelope.wrapping import DamagedWrapError
from kvseal.errors import (
    KvsealError,
    SecretNotFoundError,
    SecretReferenceError,
    WrapKeyError,
    WrapKeyRefusedError,
    WrapKeyUnreachableError,
)
from kvseal.wrapkeys import TransitKey

if TYPE_CHECKING:
    from pathlib import Path

SECRETS = (ROOT_TOKEN, "hunter2", "secret-words-of-the-service")


@pytest.fixture
def wrap_key(transit: TransitServer) -> TransitKey:
    """Return the key `transit/kv`."""
    return TransitKey.from_reference("transit/kv")


@pytest.fixture
def unreachable(transit: TransitServer) -> TransitKey:
    """Return a key at an address where nobody listens."""
    return TransitKey("kv", address=f"http://127.0.0.1:{free_port()}")


class TestContract(WrapKeyContract):
    """What every wrap key does."""


def test_derived_key(transit: TransitServer) -> None:
    """A key that derives gets its context, and binds by it as well."""
    transit.keys["transit", "derived"] = TransitKeyRing(derived=True)
    key = TransitKey("derived")

    assert KEY == key.unwrap(key.wrap(KEY, CONTEXT), CONTEXT)


def test_rotated_key(transit: TransitServer, wrap_key: TransitKey) -> None:
    """An older version still unwraps, new wraps use the newest, and below the minimum the error says why."""
    old = wrap_key.wrap(KEY, CONTEXT)
    transit.answer("/v1/transit/keys/kv/rotate", ROOT_TOKEN, {})
    new = wrap_key.wrap(KEY, CONTEXT)

    assert (b"vault:v1:", b"vault:v2:") == (old[:9], new[:9])
    assert KEY == wrap_key.unwrap(old, CONTEXT) == wrap_key.unwrap(new, CONTEXT)
    transit.answer("/v1/transit/keys/kv/config", ROOT_TOKEN, {"min_decryption_version": 2})
    with pytest.raises(WrapKeyRefusedError, match="no longer decrypts") as caught:
        wrap_key.unwrap(old, CONTEXT)
    assert "min_decryption_version" in caught.value.hint
    assert KEY == wrap_key.unwrap(new, CONTEXT)


def test_other_key(transit: TransitServer, wrap_key: TransitKey) -> None:
    """What one key has wrapped, another does not unwrap."""
    transit.keys["transit", "other"] = TransitKeyRing()

    with pytest.raises(DamagedWrapError):
        TransitKey("other").unwrap(wrap_key.wrap(KEY, CONTEXT), CONTEXT)


def test_token_that_may_only_decrypt(transit: TransitServer, wrap_key: TransitKey) -> None:
    """A policy of one capability lets a process open, and not wrap."""
    transit.tokens["hvs.reader"] = {"transit/decrypt/kv": {"update"}}
    reader = TransitKey("kv", token=lambda: "hvs.reader")

    assert KEY == reader.unwrap(wrap_key.wrap(KEY, CONTEXT), CONTEXT)
    with pytest.raises(WrapKeyRefusedError, match="does not let this process use"):
        reader.wrap(KEY, CONTEXT)


def test_policy_without_create_makes_no_key(transit: TransitServer) -> None:
    """A mistyped name is refused where the token may not create keys, as the runbook's policy has it."""
    transit.tokens["hvs.app"] = {f"transit/{verb}/kv": {"update"} for verb in ("encrypt", "decrypt")}

    with pytest.raises(WrapKeyRefusedError):
        TransitKey("vk", token=lambda: "hvs.app").wrap(KEY, CONTEXT)
    assert {("transit", "kv")} == set(transit.keys)


@pytest.mark.parametrize(
    ("changed", "error", "words"),
    [
        pytest.param({"token": "hvs.nobody"}, WrapKeyRefusedError, "does not let this process", id="token"),
        pytest.param({"key": "gone"}, WrapKeyRefusedError, "has no transit key transit/gone", id="no-key"),
        pytest.param({"mount": "elsewhere"}, WrapKeyRefusedError, "has no transit engine", id="no-mount"),
        pytest.param({"key": "rsa"}, WrapKeyRefusedError, "binds no context", id="a-key-without-aead"),
    ],
)
def test_refused(
    changed: dict[str, str],
    error: type[KvsealError],
    words: str,
    transit: TransitServer,
    wrap_key: TransitKey,
) -> None:
    """Each reason for which the service refuses is told, and none of it in the service's words."""
    transit.keys["transit", "rsa"] = TransitKeyRing(aead=False)
    token = changed.get("token", ROOT_TOKEN)
    key = TransitKey(changed.get("key", "kv"), mount=changed.get("mount", "transit"), token=lambda: token)

    with pytest.raises(error, match=words) as caught:
        key.unwrap(wrap_key.wrap(KEY, CONTEXT), CONTEXT)
    assert 12 == caught.value.exit_code
    assert "permission denied" not in str(caught.value)
    assert "hvs." not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (401, b'{"errors":["secret-words-of-the-service"]}', WrapKeyRefusedError),
        (429, b'{"errors":["secret-words-of-the-service"]}', WrapKeyUnreachableError),
        (500, b'{"errors":["secret-words-of-the-service"]}', WrapKeyUnreachableError),
        (502, b"<html>secret-words-of-the-service</html>", WrapKeyUnreachableError),
        (503, b'{"errors":["Vault is sealed"]}', WrapKeyUnreachableError),
        (504, b"secret-words-of-the-service", WrapKeyUnreachableError),
        (200, b"<html>secret-words-of-the-service</html>", WrapKeyError),
        (200, b'{"data":{"plaintext":7}}', WrapKeyError),
        (200, b'{"data":{"plaintext":"?"}}', WrapKeyError),
        (200, b"[]", WrapKeyError),
        (204, b"", WrapKeyError),
    ],
)
def test_strange_answers(
    status: int, body: bytes, error: type[KvsealError], transit: TransitServer, wrap_key: TransitKey
) -> None:
    """Whatever else is answered is an error of its own class, without a word of the answer in it."""
    wrapped = wrap_key.wrap(KEY, CONTEXT)
    transit.broken = (status, body)

    with pytest.raises(WrapKeyError) as caught:
        wrap_key.unwrap(wrapped, CONTEXT)
    assert error is type(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    assert not any(word in f"{caught.value}{caught.value.hint}" for word in SECRETS)


@pytest.mark.parametrize(
    "rest", ["kv", "transit/", "/kv", "transit/k v", "transit/k%2fv", "a//b", "ä/b", "a/b?c"]
)
def test_what_is_no_key(rest: str, transit: TransitServer) -> None:
    """A reference names a mount and a key, in characters that mean nothing in a URL."""
    with pytest.raises(SecretReferenceError, match="MOUNT/KEY"):
        TransitKey.from_reference(rest)


def test_mount_with_slashes(transit: TransitServer) -> None:
    """The key is what follows the last slash."""
    transit.mounts.add("team/a/transit")

    TransitKey.from_reference("team/a/transit/kv").wrap(KEY, CONTEXT)

    assert ["/v1/team/a/transit/encrypt/kv"] == transit.requests


def test_environment(transit: TransitServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """OpenBao's variables come before Vault's, a namespace is sent, and a token may lie in the home directory."""
    monkeypatch.setenv("VAULT_ADDR", "http://127.0.0.1:1")
    monkeypatch.setenv("BAO_ADDR", transit.url)
    monkeypatch.setenv("BAO_NAMESPACE", "team-a")
    monkeypatch.delenv("VAULT_TOKEN")
    (tmp_path / ".vault-token").write_text(f"{ROOT_TOKEN}\n")
    key = TransitKey("kv")

    assert KEY == key.unwrap(key.wrap(KEY, CONTEXT), CONTEXT)
    assert {"team-a"} == set(transit.namespaces)
    assert f"{transit.url} (namespace team-a)" == key.address


def test_renewed_token(transit: TransitServer) -> None:
    """The token is asked for again with each request."""
    tokens = iter(["hvs.old", ROOT_TOKEN])
    key = TransitKey("kv", token=lambda: next(tokens))

    with pytest.raises(WrapKeyRefusedError):
        key.wrap(KEY, CONTEXT)
    assert key.wrap(KEY, CONTEXT)


def test_nothing_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an address, and without a token, the error says what to set."""
    with pytest.raises(SecretNotFoundError) as caught:
        TransitKey("kv")
    assert "VAULT_ADDR" in caught.value.hint
    with pytest.raises(SecretNotFoundError, match="VAULT_TOKEN"):
        TransitKey("kv", address="http://127.0.0.1:1").wrap(KEY, CONTEXT)


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without hvac, the error says what to install."""
    monkeypatch.setitem(sys.modules, "hvac", None)

    with pytest.raises(SecretNotFoundError) as caught:
        TransitKey("kv", address="http://127.0.0.1:1", token=lambda: "t").wrap(KEY, CONTEXT)
    assert "pip install 'kvseal[transit]'" == caught.value.hint


def test_password_in_the_address(unreachable: TransitKey) -> None:
    """What stands before the host is shown nowhere."""
    key = TransitKey("kv", address=f"http://user:hunter2@{unreachable.address[7:]}/x?token=hunter2")

    with pytest.raises(WrapKeyUnreachableError) as caught:
        key.wrap(KEY, CONTEXT)
    assert unreachable.address == key.address
    assert not any(word in f"{caught.value}{key!r}" for word in SECRETS)


def test_plain_http_is_warned_of(transit: TransitServer, caplog: pytest.LogCaptureFixture) -> None:
    """The root key in plain HTTP over a network is worth a warning; on this machine it is not."""
    with caplog.at_level(logging.WARNING, "kvseal"):
        TransitKey("kv")
        TransitKey("kv", address="https://bao.example")
        assert [] == caplog.messages
        TransitKey("kv", address="http://u:hunter2@bao.example:8200")

    (message,) = caplog.messages
    assert message.startswith("bao.example is reached by plain http")

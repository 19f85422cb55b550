"""The `secret=` of the API: never bare text, read late, and generated only where none was named."""

from __future__ import annotations

import logging

import pytest

from kvseal import Secret
from kvseal.errors import SecretNotFoundError, SecretReferenceError
from kvseal.secrets.defaults import default_key_file, default_secret
from kvseal.secrets.given import check_secret, secret_for_creation, secret_for_opening


@pytest.mark.parametrize("secret", ["hunter2", "", "env:"], ids=repr)
def test_bare_text_is_refused_at_once(secret: str) -> None:
    """A `str` that is no reference is refused before anything else happens."""
    with pytest.raises(SecretReferenceError):
        check_secret(secret)


@pytest.mark.parametrize("secret", [b"hunter2", 7, ["env:A"]], ids=repr)
def test_other_types_are_refused_and_not_repeated(secret: object) -> None:
    """What is neither a `Secret` nor text is a `TypeError` that does not repeat it."""
    with pytest.raises(TypeError) as caught:
        check_secret(secret)  # type: ignore[arg-type]
    assert "hunter2" not in str(caught.value)


async def test_secret_for_opening(monkeypatch: pytest.MonkeyPatch) -> None:
    """A `Secret` is itself, a reference what it points at, `None` the default; nothing is generated."""
    monkeypatch.setenv("TEST_SECRET", "named")

    assert Secret(b"given") == await secret_for_opening(Secret(b"given"))
    assert Secret(b"named") == await secret_for_opening("env:TEST_SECRET")
    with pytest.raises(SecretNotFoundError):
        await secret_for_opening(None)
    monkeypatch.setenv("KVSEAL_MASTER_KEY", "default")
    assert Secret(b"default") == await secret_for_opening(None)


async def test_secret_for_creation(caplog: pytest.LogCaptureFixture) -> None:
    """Without a name a secret is generated, and a warning says where it is kept, not what it is."""
    with caplog.at_level(logging.WARNING, logger="kvseal"):
        secret = await secret_for_creation(None)

    assert secret == default_secret()
    assert str(default_key_file()) in caplog.text
    assert secret.reveal().decode() not in caplog.text


async def test_secret_for_creation_that_is_named() -> None:
    """A secret that was named but is missing is never generated."""
    with pytest.raises(SecretNotFoundError):
        await secret_for_creation("env:TEST_SECRET")
    assert not default_key_file().exists()

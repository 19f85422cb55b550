"""What is stored in place of a secret by mistake is refused, with words that say what it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvseal import Secret
from kvseal.errors import MistypedSecretError, SecretReferenceError
from kvseal.secrets.defaults import default_secret
from kvseal.secrets.secret import generate, generate_recovery_key
from kvseal.secrets.sources import resolve

if TYPE_CHECKING:
    from pathlib import Path

GENERATED = generate(random=lambda size: bytes(range(size))).reveal()
RECOVERY = generate_recovery_key(random=lambda size: bytes(range(size))).reveal()

WRAPPINGS = [
    pytest.param(b'"%s"', "inside quotation marks", id="double-quotes"),
    pytest.param(b"'%s'\n", "inside quotation marks", id="single-quotes"),
    pytest.param(b"b'%s'", "inside b'…'", id="python-bytes"),
    pytest.param(b"\xef\xbb\xbf%s", "behind a byte order mark", id="byte-order-mark"),
    pytest.param(b"KVSEAL_MASTER_KEY=%s", "behind a name", id="assignment"),
    pytest.param(b'export KEY="%s"', "behind a name", id="export"),
    pytest.param(b"key: %s", "behind a name", id="yaml"),
    pytest.param(b"%s # of the kv store", "inside other text", id="comment"),
    pytest.param(b"{'secret': '%s'}", "inside other text", id="json"),
    pytest.param(b"%s;", "inside other text", id="semicolon"),
]


@pytest.mark.parametrize("secret", [GENERATED, RECOVERY], ids=["generated", "recovery"])
@pytest.mark.parametrize(("wrapping", "named"), WRAPPINGS)
def test_a_generated_secret_in_other_text(wrapping: bytes, named: str, secret: bytes) -> None:
    """It never becomes a password with its wrapping; the message says what is around it, and repeats nothing."""
    with pytest.raises(MistypedSecretError) as caught:
        Secret(wrapping % secret)

    assert named in str(caught.value)
    assert secret[9:14].decode() not in str(caught.value) + caught.value.hint


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("end", ["", "\r\n"], ids=["bare", "line"])
def test_a_generated_secret_in_utf_16(encoding: str, end: str) -> None:
    """An editor that saves UTF-16 is named."""
    with pytest.raises(MistypedSecretError, match="in UTF-16"):
        Secret((GENERATED.decode() + end).encode(encoding))


@pytest.mark.parametrize("wrapping", [b'"%s"', b"b'%s'", b"KEY=%s"])
def test_a_damaged_one_in_other_text(wrapping: bytes) -> None:
    """With a typing error inside its wrapping, it is no password either."""
    with pytest.raises(MistypedSecretError):
        Secret(wrapping % GENERATED[:-1])


@pytest.mark.parametrize(
    "value", [b'"hunter2"', b"b'hunter2'", b"KEY=hunter2", b"a: b", "ÿþ".encode("utf-16")]
)
def test_other_secrets_may_look_wrapped(value: bytes) -> None:
    """A passphrase with quotation marks is that passphrase."""
    assert value == Secret(value).reveal()


@given(size=st.integers(0, 400), letter=st.sampled_from(b"0AZ- "))
def test_a_prefix_before_anything(size: int, letter: int) -> None:
    """Text of any length behind a prefix is mistyped, and never another error."""
    for prefix in (b"KVSEALR1", b"KVSEAL1-"):
        try:
            Secret(prefix + bytes((letter,)) * size)
        except MistypedSecretError:
            continue


@pytest.mark.parametrize(
    "text",
    [
        "file:/run/secrets/kv",
        "env:OTHER",
        "cmd:pass show kv",
        "transit:transit/kv",
        "prompt:Vault key",
        "${SECRET}",
        "${SECRET:-none}",
        "$(cat /run/secrets/kv)",
        "$MASTER_KEY",
        "%MASTER_KEY%",
        "{{ .Values.masterKey }}",
        "${{ secrets.MASTER_KEY }}",
        "'${SECRET}'",
    ],
)
def test_what_is_obviously_no_secret(text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A reference or an unexpanded variable is refused wherever a secret is read, and not repeated."""
    path = tmp_path / "master.key"
    path.write_text(text + "\n")
    path.chmod(0o600)
    monkeypatch.setenv("KVSEAL_MASTER_KEY", text)

    for read in (default_secret, lambda: resolve("env:KVSEAL_MASTER_KEY"), lambda: resolve(f"file:{path}")):
        with pytest.raises(SecretReferenceError) as caught:
            read()
        assert text not in str(caught.value) + caught.value.hint


@pytest.mark.parametrize(
    "text", ["pa$$word", "$ecret", "100%", "a:b", "file", "https://x", "{json}", "$5.00"]
)
def test_passphrases_that_look_alike(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Text that only has such a character in it is a secret."""
    monkeypatch.setenv("TEST_SECRET", text)

    assert Secret(text.encode()) == resolve("env:TEST_SECRET")

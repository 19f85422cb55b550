"""The keyslot: a wrong secret and a damaged slot are told apart."""

from __future__ import annotations

import unicodedata
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.keys.made import NOW, OTHER_SECRET, SECRET, VAULT_ID, slot
from tests.vectors import verify_records

from kvseal import Argon2idParams, Secret
from kvseal.envelope.wrapping import WrappedKey, WrongKeyError
from kvseal.errors import DamagedSlotError, KDFParametersError, VaultError
from kvseal.keys.keyslot import Keyslot, is_label
from kvseal.keys.rootkey import RootKey

ROOT = RootKey.generate(VAULT_ID)


@pytest.fixture
def good() -> Keyslot:
    """Return a slot of ROOT for SECRET."""
    return slot(ROOT, SECRET)


def test_opens_to_the_root_key(good: Keyslot) -> None:
    """The secret opens the slot to the root key of its vault."""
    root = good.open(SECRET, VAULT_ID)

    assert (ROOT.reveal(), VAULT_ID) == (root.reveal(), root.vault_id)


def test_wrong_secret(good: Keyslot) -> None:
    """Another secret is a wrong key, so that another slot may be tried."""
    with pytest.raises(WrongKeyError):
        good.open(OTHER_SECRET, VAULT_ID)


def test_generated_secret_in_any_spelling() -> None:
    """A generated secret opens its slot however it was typed."""
    from kvseal.secrets.secret import generate

    secret = generate()

    assert ROOT.reveal() == slot(ROOT, secret).open(Secret(secret.reveal().lower()), VAULT_ID).reveal()


@pytest.mark.parametrize("field", ["nonce", "ciphertext"])
def test_damaged(field: str, good: Keyslot) -> None:
    """The right secret with changed bytes is a damaged slot, which the error names."""
    damaged = replace(good.wrapped, **{field: bytes(len(getattr(good.wrapped, field)))})

    with pytest.raises(DamagedSlotError, match=f"{good.id}.*primary"):
        replace(good, wrapped=damaged).open(SECRET, VAULT_ID)


def test_bound_to_its_id(good: Keyslot) -> None:
    """A slot under another id is damaged."""
    with pytest.raises(DamagedSlotError):
        replace(good, id="0" * 16).open(SECRET, VAULT_ID)


def test_bound_to_its_vault(good: Keyslot) -> None:
    """A slot in another vault is damaged."""
    with pytest.raises(DamagedSlotError):
        good.open(SECRET, b"w" * 16)


@pytest.mark.parametrize(
    "params",
    [Argon2idParams(2, 8, 1), Argon2idParams(1, 9, 1), Argon2idParams(1, 16, 2)],
    ids=["t", "m", "p"],
)
def test_other_parameters(params: Argon2idParams, good: Keyslot) -> None:
    """Changed parameters derive another key."""
    with pytest.raises(WrongKeyError):
        replace(good, params=params).open(SECRET, VAULT_ID)


def test_parameters_are_bound(good: Keyslot, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parameters are authenticated too, not only derived with."""
    from kvseal.keys import keyslot

    derive = keyslot.argon2id
    monkeypatch.setattr(
        keyslot, "argon2id", lambda secret, salt, _, **kw: derive(secret, salt, good.params, **kw)
    )

    with pytest.raises(DamagedSlotError):
        replace(good, params=Argon2idParams(2, 8, 1)).open(SECRET, VAULT_ID)


def test_memory_ceiling(good: Keyslot) -> None:
    """A slot that asks for more memory than the ceiling is refused."""
    with pytest.raises(KDFParametersError, match="ceiling of 7 KiB"):
        good.open(SECRET, VAULT_ID, memory_ceiling=7)


def test_two_slots_of_one_secret_share_nothing(good: Keyslot) -> None:
    """Id, salt, commitment and wrapped key of two slots of the same secret differ."""
    other = slot(ROOT, SECRET)

    assert good.id != other.id
    assert good.salt != other.salt
    assert good.wrapped.commitment != other.wrapped.commitment
    assert good.wrapped.ciphertext != other.wrapped.ciphertext


@pytest.mark.parametrize(
    ("days", "usable"),
    [(None, True), (1, True), (0, False), (-1, False)],
    ids=["never", "later", "now", "past"],
)
def test_expiry(days: int | None, usable: bool, good: Keyslot) -> None:
    """A slot is usable until it expires."""
    expires_at = None if days is None else NOW + timedelta(days=days)

    assert usable == replace(good, expires_at=expires_at).usable(NOW)


def test_repr_has_no_key(good: Keyslot) -> None:
    """Nothing of the root key or the secret is in the repr."""
    shown = repr(good)

    assert not any(word in shown for word in ("correct", repr(ROOT.reveal())[2:-1], ROOT.reveal().hex()))


def test_wrapped_key_is_not_the_key(good: Keyslot) -> None:
    """The wrapped key is 48 other bytes."""
    assert WrappedKey is type(good.wrapped)
    assert ROOT.reveal() not in good.wrapped.ciphertext


def test_a_label_of_a_later_unicode() -> None:
    """A character that this interpreter's tables do not have yet is allowed, as another's may have it."""
    later = next(chr(number) for number in range(0x100, 0x3000) if unicodedata.category(chr(number)) == "Cn")

    assert is_label(f"a{later}")
    assert not later.isprintable()


@pytest.mark.exhaustive
def test_labels_as_the_independent_verifier_has_them() -> None:
    """Of all code points, kvseal and the verifier of the vectors show the very same."""
    every = [chr(number) for number in range(0x110000)]

    assert list(map(verify_records.is_showable, every)) == list(map(is_label, every))


@given(text=st.text(min_size=1, max_size=8))
def test_a_label_breaks_no_line(text: str) -> None:
    """What is a label has neither line breaks nor control, format or surrogate characters."""
    if is_label(text):
        assert [text] == text.splitlines()
        assert not {"Cc", "Cs", "Co", "Zl", "Zp"} & set(map(unicodedata.category, text))


@pytest.mark.parametrize("label", ["", "x" * 129, "a\nb", "\x1b[31mred", "\ud800", "a\u202eb"], ids=ascii)
def test_label_that_a_message_cannot_show(label: str) -> None:
    """A label is 1 to 128 printable characters, at creation and when it is read."""
    with pytest.raises(VaultError, match="slot label"):
        Keyslot.create(RootKey.generate(VAULT_ID), SECRET, Argon2idParams(1, 8, 1), label=label, now=NOW)


def test_creation_respects_the_ceiling() -> None:
    """A slot that a default `open` would refuse is not made."""
    with pytest.raises(KDFParametersError, match="ceiling of 7 KiB"):
        Keyslot.create(
            RootKey.generate(VAULT_ID),
            SECRET,
            Argon2idParams(1, 8, 1),
            label="primary",
            now=NOW,
            memory_ceiling=7,
        )

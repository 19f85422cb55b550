"""The master secret: what it refuses, what it never shows, and which typing errors it finds."""

from __future__ import annotations

import copy
import pickle
from string import ascii_letters, digits, punctuation
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvseal import Secret
from kvseal.errors import EmptySecretError, MistypedSecretError
from kvseal.secrets.secret import generate

GENERATED = generate(random=lambda size: bytes(range(size))).reveal()
"""A generated secret whose neighbouring characters mostly differ."""


@given(value=st.binary(min_size=1).filter(bytes.strip))
def test_any_other_secret_is_taken_as_it_is(value: bytes) -> None:
    """A secret that was not generated comes back byte by byte, white space and all."""
    assert value == Secret(value).reveal()


@pytest.mark.parametrize("value", [b"", b" ", b"\n", b"\t\r\n "], ids=repr)
def test_empty(value: bytes) -> None:
    """Nothing but white space is no secret."""
    with pytest.raises(EmptySecretError):
        Secret(value)


@pytest.mark.parametrize("value", ["hunter2", bytearray(b"hunter2"), 7, None, Secret(b"hunter2")], ids=type)
def test_only_bytes(value: Any) -> None:
    """Anything but bytes is a `TypeError` that does not repeat it."""
    with pytest.raises(TypeError, match="takes bytes") as caught:
        Secret(value)
    assert "hunter2" not in str(caught.value)


def test_no_repr() -> None:
    """Neither repr, str nor a format shows anything of it."""
    secret = Secret(b"hunter2")

    assert {"<Secret>"} == {repr(secret), str(secret), f"{secret}"}


@pytest.mark.parametrize(
    "use", [pickle.dumps, copy.copy, copy.deepcopy, hash], ids=["pickle", "copy", "deepcopy", "hash"]
)
def test_not_pickled_copied_or_hashed(use: Any) -> None:
    """It cannot leave the process or become a dict key."""
    with pytest.raises(TypeError):
        use(Secret(b"hunter2"))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_not_pickled_by_any_protocol(protocol: int) -> None:
    """No pickle protocol finds a way around."""
    with pytest.raises(TypeError):
        pickle.dumps([Secret(b"hunter2")], protocol)


def test_no_dict() -> None:
    """It has no `__dict__` for `vars` and debuggers to show."""
    assert not hasattr(Secret(b"hunter2"), "__dict__")


def test_equality() -> None:
    """Secrets are equal to the same secret, and to nothing else."""
    assert Secret(b"a") == Secret(b"a")
    assert Secret(b"a") != Secret(b"b")
    assert Secret(b"a") != b"a"


def test_equality_is_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two secrets are compared by `compare_digest`."""
    compared: list[tuple[bytes, bytes]] = []
    monkeypatch.setattr("kvseal.secrets.secret.compare_digest", lambda *pair: bool(compared.append(pair)))

    assert Secret(b"a") != Secret(b"b")
    assert [(b"a", b"b")] == compared


def test_generated_form() -> None:
    """A generated secret is its prefix and groups of five characters, each of 256 bits different."""
    prefix, *groups = generate().reveal().decode().split("-")

    assert "KVSEAL1" == prefix
    assert [5] * 11 + [3] == list(map(len, groups))
    assert generate() != generate()


def test_generated_secret_uses_all_its_randomness() -> None:
    """Every bit of the 256 that are drawn changes the secret."""
    flipped = {
        generate(random=lambda size, bit=bit: (1 << bit).to_bytes(size, "big")).reveal() for bit in range(256)
    }

    assert 256 == len(flipped)


@pytest.mark.parametrize(
    "variant",
    [
        pytest.param(GENERATED, id="as-it-is"),
        pytest.param(GENERATED.lower(), id="lower-case"),
        pytest.param(GENERATED.swapcase().title(), id="mixed-case"),
        pytest.param(GENERATED.replace(b"-", b" "), id="spaces"),
        pytest.param(GENERATED.replace(b"-", b"  - "), id="spaces-and-dashes"),
        pytest.param(GENERATED.replace(b"-", b""), id="no-dashes"),
        pytest.param(b"KVSEAL1-" + GENERATED[8:].replace(b"-", b""), id="one-group"),
        pytest.param(b"  " + GENERATED + b"\r\n", id="white-space-around"),
        pytest.param(GENERATED[:31] + b"\n" + GENERATED[31:], id="two-lines"),
        pytest.param(
            GENERATED.replace(b"-", b"\xe2\x80\x91").replace(b"\xe2\x80\x91", b"-"), id="ascii-dashes"
        ),
    ],
)
def test_generated_secret_has_one_spelling(variant: bytes) -> None:
    """Case, spaces and dashes do not matter."""
    assert GENERATED == Secret(variant).reveal()


def outcome(text: bytes) -> str:
    """Return what becomes of *text*: the generated secret, an error, or a secret of its own."""
    try:
        return "same" if Secret(text).reveal() == GENERATED else "another secret"
    except MistypedSecretError:
        return "mistyped"


def test_every_substitution_is_found() -> None:
    """Any one character replaced by any other is found, or changes nothing but case, spaces and dashes."""
    alphabet = (ascii_letters + digits + punctuation + " ").encode()
    outcomes = {
        outcome(GENERATED[:place] + bytes((character,)) + GENERATED[place + 1 :])
        for place in range(len(GENERATED))
        for character in alphabet
    }

    assert {"same", "mistyped"} == outcomes


def test_substitutions_that_change_nothing() -> None:
    """A replaced character is overlooked only where it is the same letter or another separator."""
    for place, original in enumerate(GENERATED.decode()):
        for character in ascii_letters + digits + punctuation + " ":
            changed = GENERATED[:place] + character.encode() + GENERATED[place + 1 :]
            same = character.upper() == original or (original == "-" and character == " ")

            assert ("same" if same else "mistyped") == outcome(changed)


@pytest.mark.parametrize("letter", ["é", "\uff21", "\u2014", "\ufffd", "\xa0"])
def test_substitutions_beyond_ascii_are_found(letter: str) -> None:
    """A look-alike of another alphabet is found in every place."""
    changed = {
        outcome(GENERATED[:place] + letter.encode() + GENERATED[place + 1 :])
        for place in range(len(GENERATED))
    }

    assert {"mistyped"} == changed


def test_every_transposition_is_found() -> None:
    """Any two neighbours exchanged are found, unless that moves nothing but a dash."""
    for place in range(len(GENERATED) - 1):
        one, other = GENERATED[place : place + 1], GENERATED[place + 1 : place + 2]
        changed = GENERATED[:place] + other + one + GENERATED[place + 2 :]
        same = one == other or b"-" in {one, other}

        assert ("same" if same else "mistyped") == outcome(changed)


def test_every_lost_or_doubled_character_is_found() -> None:
    """Any one character left out or typed twice is found, unless it is a dash."""
    for place in range(len(GENERATED)):
        character = GENERATED[place : place + 1]
        expected = "same" if character == b"-" else "mistyped"

        assert expected == outcome(GENERATED[:place] + GENERATED[place + 1 :])
        assert expected == outcome(GENERATED[:place] + character + GENERATED[place:])


@pytest.mark.parametrize("size", range(8, len(GENERATED)))
def test_truncated_secret_is_found(size: int) -> None:
    """A generated secret that was not copied to its end is found."""
    assert "mistyped" == outcome(GENERATED[:size])


@pytest.mark.parametrize(
    "value", [b"kvseal1", b"KVSEAL1234", b"kvseal123456789", b"---", b"my kvseal1-secret"], ids=repr
)
def test_passphrases_that_only_look_alike(value: bytes) -> None:
    """A passphrase that happens to start alike stays a passphrase."""
    assert value == Secret(value).reveal()


def test_mistyped_error_does_not_repeat_the_secret() -> None:
    """The error names no group of the secret."""
    with pytest.raises(MistypedSecretError) as caught:
        Secret(GENERATED[:-1])

    assert not any(group in str(caught.value) for group in GENERATED.decode().split("-"))

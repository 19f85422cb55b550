"""Keys under keys: what tells a wrong key from a damaged wrap."""

from __future__ import annotations

from hmac import compare_digest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvseal.envelope import wrapping
from kvseal.envelope.kdf import hkdf
from kvseal.envelope.wrapping import DamagedWrapError, WrappedKey, WrongKeyError, unwrap_key, wrap_key

KEY, UNDER = b"k" * 32, b"u" * 32


def wrapped() -> WrappedKey:
    """Return KEY wrapped under UNDER."""
    return wrap_key(KEY, under=UNDER, purpose=b"purpose", aad=b"aad", urandom=bytes)


def unwrap(
    key: WrappedKey, *, under: bytes = UNDER, purpose: bytes = b"purpose", aad: bytes = b"aad"
) -> bytes:
    """Unwrap with what `wrapped` used, but for what is given."""
    return unwrap_key(key, under=under, purpose=purpose, aad=aad)


@given(
    key=st.binary(min_size=32, max_size=32),
    under=st.binary(min_size=32, max_size=32),
    purpose=st.binary(max_size=20),
    aad=st.binary(max_size=20),
)
def test_unwrap_undoes_wrap(key: bytes, under: bytes, purpose: bytes, aad: bytes) -> None:
    """What was wrapped comes back."""
    assert key == unwrap(
        wrap_key(key, under=under, purpose=purpose, aad=aad), under=under, purpose=purpose, aad=aad
    )


@pytest.mark.parametrize(
    "other", [{"under": b"v" * 32}, {"purpose": b"another"}], ids=["another-key", "another-purpose"]
)
def test_wrong_key(other: dict[str, bytes]) -> None:
    """Another wrapping key, or the same one for another purpose, is `WrongKeyError`."""
    with pytest.raises(WrongKeyError):
        unwrap(wrapped(), **other)


def test_bound_to_aad() -> None:
    """The right key with other associated data is `DamagedWrapError`, not a wrong key."""
    with pytest.raises(DamagedWrapError):
        unwrap(wrapped(), aad=b"aae")


@pytest.mark.parametrize(
    ("field", "error"),
    [("commitment", WrongKeyError), ("nonce", DamagedWrapError), ("ciphertext", DamagedWrapError)],
)
def test_every_flipped_bit_is_found(field: str, error: type[Exception]) -> None:
    """A flipped bit of the commitment looks like a wrong key, any other like damage."""
    good = wrapped()
    parts = {name: getattr(good, name) for name in ("commitment", "nonce", "ciphertext")}
    for bit in range(8 * len(parts[field])):
        flipped = bytearray(parts[field])
        flipped[bit // 8] ^= 1 << bit % 8

        with pytest.raises(error):
            unwrap(WrappedKey(**{**parts, field: bytes(flipped)}))


def test_commitment_is_compared_in_constant_time_and_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """The commitment goes through `compare_digest`, and nothing is decrypted where it differs."""
    good = wrapped()
    compared: list[tuple[bytes, bytes]] = []
    opened: list[bytes] = []

    def observed(left: bytes, right: bytes) -> bool:
        compared.append((left, right))
        return compare_digest(left, right)

    class Observed(wrapping.XAES256GCM):
        def open(self, nonce: bytes, ciphertext: bytes, aad: bytes) -> bytes:
            opened.append(nonce)
            return super().open(nonce, ciphertext, aad)

    monkeypatch.setattr(wrapping, "compare_digest", observed)
    monkeypatch.setattr(wrapping, "XAES256GCM", Observed)
    with pytest.raises(WrongKeyError):
        unwrap(good, under=b"v" * 32)

    assert [(hkdf(b"v" * 32, b"purpose", 64)[32:], good.commitment)] == compared
    assert [] == opened


def test_wrapping_twice_draws_two_nonces() -> None:
    """The same key wrapped twice has two nonces and one commitment."""
    first, second = (wrap_key(KEY, under=UNDER, purpose=b"purpose", aad=b"") for _ in range(2))

    assert first.nonce != second.nonce
    assert first.ciphertext != second.ciphertext
    assert first.commitment == second.commitment


@pytest.mark.parametrize("size", [0, 16, 31, 33, 64])
def test_key_to_wrap_has_32_bytes(size: int) -> None:
    """A key of any other size is refused."""
    with pytest.raises(ValueError, match=f"32 bytes, not {size}"):
        wrap_key(bytes(size), under=UNDER, purpose=b"", aad=b"")


@pytest.mark.parametrize(
    "sizes",
    [(31, 24, 48), (33, 24, 48), (32, 12, 48), (32, 25, 48), (32, 24, 47), (32, 24, 49), (0, 0, 0)],
    ids=str,
)
def test_wrapped_key_of_other_sizes_cannot_be_built(sizes: tuple[int, int, int]) -> None:
    """Commitment, nonce and ciphertext are 32, 24 and 48 bytes."""
    with pytest.raises(ValueError, match="32, 24 and 48"):
        WrappedKey(*map(bytes, sizes))


def test_repr_has_no_ciphertext() -> None:
    """The repr leaves out the wrapped key."""
    good = wrapped()

    assert repr(good.ciphertext) not in repr(good)
    assert "ciphertext" not in repr(good)

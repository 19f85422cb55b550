"""What every wrap key does, whatever service holds it."""

from __future__ import annotations

import pytest

from kvseal.envelope.wrapping import DamagedWrapError
from kvseal.errors import WrapKeyUnreachableError
from kvseal.wrapkeys import WrapKey

KEY = bytes(range(32))
CONTEXT = {"kvseal-slot": "0011223344556677", "kvseal-vault": "00" * 16}


class WrapKeyContract:
    """Subclasses bring the fixtures `wrap_key` and `unreachable`; `damaged` is what changed bytes lead to."""

    damaged: tuple[type[Exception], ...] = (DamagedWrapError,)

    def test_there_and_back(self, wrap_key: WrapKey) -> None:
        """What was wrapped is unwrapped, and nothing of the key is in it."""
        wrapped = wrap_key.wrap(KEY, CONTEXT)

        assert KEY == wrap_key.unwrap(wrapped, CONTEXT)
        assert KEY not in wrapped
        assert len(wrapped) < 8192

    @pytest.mark.parametrize("name", CONTEXT)
    def test_bound_to_its_context(self, name: str, wrap_key: WrapKey) -> None:
        """For another vault or another slot, the service does not unwrap it."""
        wrapped = wrap_key.wrap(KEY, CONTEXT)

        with pytest.raises(DamagedWrapError):
            wrap_key.unwrap(wrapped, {**CONTEXT, name: "ff" * 8})

    @pytest.mark.parametrize("place", [0, 12, -1])
    def test_damaged(self, place: int, wrap_key: WrapKey) -> None:
        """Changed bytes, in what names the key's version or in the ciphertext, do not unwrap."""
        wrapped = bytearray(wrap_key.wrap(KEY, CONTEXT))
        wrapped[place] ^= 0x81

        with pytest.raises(self.damaged):
            wrap_key.unwrap(bytes(wrapped), CONTEXT)

    def test_unreachable(self, unreachable: WrapKey) -> None:
        """Where nobody listens, the error says so, and where."""
        with pytest.raises(WrapKeyUnreachableError, match="cannot be reached"):
            unreachable.wrap(KEY, CONTEXT)

    def test_is_a_wrap_key(self, wrap_key: WrapKey) -> None:
        """It has all that the protocol asks for, and a repr without a secret."""
        assert isinstance(wrap_key, WrapKey)
        assert wrap_key.name in repr(wrap_key)
        assert not any(word in repr(wrap_key) for word in ("hvs.", "testing"))

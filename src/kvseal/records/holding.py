"""
Holding: new values are written in an old format, while the vault's policy says so.

So old and new releases of an application run side by side, and each reads whatever the other writes.
What is written is what the old release would write: a value that it accepts is accepted, also one that could
not be sealed as it is.  Those are counted, so that the day of the flip surprises no operator.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

from kvseal.envelope.payload import encode
from kvseal.errors import UnsealableValueError
from kvseal.legacy import FERNET, FernetCodec, PlaintextCodec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kvseal.keys.keyring import Keyring
    from kvseal.vault.session import OpenVault

HELD: Final = "held"
UNSEALABLE: Final = "unsealable"

_PLAINTEXT: Final = PlaintextCodec()
_log = logging.getLogger("kvseal")


class Holding:
    """Writes values in the old format that a vault's policy holds and this process permits."""

    outcomes: Counter[str]
    """Values that were `held`, and those among them that are `unsealable`: a flip would refuse them."""

    def __init__(self) -> None:
        self.outcomes = Counter()
        self._codecs: WeakKeyDictionary[Keyring, FernetCodec] = WeakKeyDictionary()

    def stored(self, value: Mapping[str, Any], vault: OpenVault) -> dict[str, Any]:
        """
        Return what the old release would store for *value*.

        Raises:
            HoldNotPermittedError, VaultHeldError: this process may not, or not yet.
            UnsealableValueError: the old release could not store it, or would read it as an encrypted record.
        """
        is_fernet = vault.held_format() == FERNET
        could_be_sealed = self._could_be_sealed(value)
        stored = self._encrypted(value, vault.keyring, exact=could_be_sealed) if is_fernet else _plain(value)
        self.outcomes[HELD] += 1
        return stored

    def _could_be_sealed(self, value: Mapping[str, Any]) -> bool:
        try:
            encode(value)
        except UnsealableValueError as exc:
            if not self.outcomes[UNSEALABLE]:
                _log.warning("a value is held that could not be sealed: %s", exc.message)
            self.outcomes[UNSEALABLE] += 1
            return False
        return True

    def _encrypted(self, value: Mapping[str, Any], keyring: Keyring, *, exact: bool) -> dict[str, Any]:
        codec = self._codecs.get(keyring)
        if codec is None:
            # Only while a key is held does the policy order this format.
            held = [keyring.writes_with.key] if keyring.writes_with else []
            codec = self._codecs[keyring] = FernetCodec(held)
        return codec.seal(value if exact else _as_json_keeps_it(value))


def _plain(value: Mapping[str, Any]) -> dict[str, Any]:
    if not _PLAINTEXT.recognises(value):
        msg = "the value has a field of an encrypted record, and would be read as one"
        raise UnsealableValueError(msg, hint="rename the field")
    return dict(value)


def _as_json_keeps_it(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return what py-key-value's own wrapper gives back for *value*: tuples as lists, keys as text."""
    try:
        kept: dict[str, Any] = json.loads(json.dumps(dict(value)))
    except (TypeError, ValueError, RecursionError):
        msg = "the value is no JSON object"
        raise UnsealableValueError(msg, hint="put values of JSON types only") from None
    return kept

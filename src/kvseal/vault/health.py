"""
How an open vault is, from memory alone: for monitoring that anybody may see who can reach it.

No secret, key, URL, label or name of a record is in it.  It reads nothing, so it answers at once even
where the store hangs.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Final, Literal

from cryptography.hazmat.backends.openssl.backend import backend as openssl

from kvseal import clock
from kvseal.keys.retired import opened_with_retired

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    from kvseal.keys.meta import VaultMeta
    from kvseal.vault.freshness import Freshness

State = Literal[
    "ok",
    "rotation due",
    "retired dek needed",
    "idle",
    "not opened",
    "meta unanswered",
    "stale",
    "upgrade needed",
    "meta refuted",
    "locked",
]

_OUT_OF_SERVICE: Final = frozenset({"stale", "upgrade needed", "meta refuted", "locked"})


@dataclass(frozen=True, slots=True)
class Crypto:
    """Who computes: the libraries, and the OpenSSL that `cryptography` has brought."""

    source: str
    backend: str
    kdf: str


@dataclass(frozen=True, slots=True)
class Health:
    """
    One look at a vault.  Ages are in seconds; what is not known yet is `None`.

    `state` is, the first that is true:

    * `locked`: the keys are forgotten, and whatever needs them fails
    * `idle`: they are forgotten, and the next operation unlocks them again
    * `meta refuted`: the store holds no vault meta, an older or another one; nothing is sealed any more
    * `upgrade needed`: the vault meta has a critical part of a later kvseal; nothing is sealed any more
    * `stale`: the vault meta has been out of reach for so long that nothing is sealed any more
    * `meta unanswered`: the last attempt to read the vault meta got no answer; sealing goes on until `stale`
    * `retired dek needed`: this process has met records of a DEK that is retired, and that will be dropped
    * `rotation due`: the active DEK is older than it should get
    * `ok`

    or `not opened`, of a wrapper that opens its vault with the first operation.  A vault that no process
    writes to reads its meta no more, so a great `meta_age` alone is no fault.
    """

    state: State
    crypto: Crypto
    backend: str | None = None
    """The kind of store that holds the vault meta."""
    vault_id: str | None = None
    revision: int | None = None
    active_dek: int | None = None
    active_dek_age: int | None = None
    keyslot_age: int | None = None
    """Of the slot that opened the vault; `None` once it has been removed."""
    meta_age: int | None = None
    """Since the vault meta was read."""
    retired_dek_opens: int | None = None
    """Records that this process has opened with DEKs that are retired and not yet dropped."""

    @classmethod
    def of(
        cls,
        meta: VaultMeta,
        *,
        state: Literal["locked", "idle"] | None,
        location: str,
        slot_id: str,
        freshness: Freshness,
        max_dek_age: timedelta,
    ) -> Health:
        """Tell of an open vault, or of one whose keys are forgotten as *state* says."""
        now, dek = clock.utc_seconds(), meta.active_dek
        dek_age = _age(dek.created_at, now)
        retired = opened_with_retired(meta)
        slots = [_age(slot.created_at, now) for slot in meta.slots if slot.id == slot_id]
        return cls(
            state=state or _state(freshness, retired, dek_age, max_dek_age),
            crypto=crypto(),
            backend=_kind(location),
            vault_id=meta.vault_id.hex(),
            revision=meta.revision,
            active_dek=dek.number,
            active_dek_age=dek_age,
            keyslot_age=slots[0] if slots else None,
            meta_age=int(freshness.age),
            retired_dek_opens=retired,
        )

    @classmethod
    def not_opened(cls) -> Health:
        """Tell of a wrapper before its first operation."""
        return cls(state="not opened", crypto=crypto())

    @property
    def serves(self) -> bool:
        """Whether reading and writing can be expected to work."""
        return self.state not in _OUT_OF_SERVICE

    def as_dict(self) -> dict[str, Any]:
        """Return what `GET /health` answers."""
        return {"schema": 1, **asdict(self)}


@cache
def crypto() -> Crypto:
    """Return who computes in this process."""
    from importlib.metadata import version  # noqa: PLC0415 - most processes are not asked

    return Crypto(
        source=f"cryptography {version('cryptography')}",
        backend=openssl.openssl_version_text(),
        kdf=f"argon2-cffi {version('argon2-cffi')}",
    )


def _state(freshness: Freshness, retired: int, dek_age: int, max_dek_age: timedelta) -> State:
    if freshness.is_refuted:
        return "meta refuted"
    if freshness.is_barred:
        return "upgrade needed"
    if freshness.is_stale:
        return "stale"
    if freshness.is_unanswered:
        return "meta unanswered"
    if retired:
        return "retired dek needed"
    return "rotation due" if dek_age > max_dek_age.total_seconds() else "ok"


def _age(since: datetime, now: datetime) -> int:
    """Return whole seconds; clocks of several machines disagree, and no age is negative."""
    return max(0, int((now - since).total_seconds()))


def _kind(location: str) -> str:
    """Return the scheme: what follows says where the store is."""
    scheme = location.partition(":")[0]
    return scheme if scheme.isalnum() else "other"

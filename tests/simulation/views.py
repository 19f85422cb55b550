"""What a process that starts now would make of the backend's bytes, with a clock that is right."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from tests.simulation import seams
from tests.simulation.loop import EPOCH

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.simulation.server import Server

COLLECTION = "default_collection::"


@dataclass(frozen=True, slots=True)
class View:
    """One stored vault meta, opened."""

    meta: Any
    keyring: Any
    deks: dict[int, bytes]
    legacy: Any
    keys: frozenset[tuple[int, bytes]]
    """All DEKs: a record may be sealed twice, and need two of them."""

    @property
    def active(self) -> int:
        return int(self.keyring.active_dek)


@dataclass(frozen=True, slots=True)
class Seen:
    """One stored entry, looked at: *state* is whether it opens."""

    state: Literal["missing", "opens", "old", "lost", "foreign"]
    value: int | None = None
    dek: int | None = None
    reason: str = ""
    expires: float | None = None
    """The sealed expiry, as a wall time."""
    is_dying: bool = False
    """It opens with a DEK that is retired, for as long as that is kept."""

    @property
    def is_lost(self) -> bool:
        """Whether no success may come of it: it does not open, or not for long."""
        return self.state == "lost" or self.is_dying


MISSING = Seen("missing")


class Looker:
    """Opens entries, each once for the same bytes and the same key."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._views: dict[tuple[bytes, int], View | None] = {}
        self._seen: dict[tuple[str, bytes, Any], Seen] = {}
        self.secrets: list[Any] = []

    def view(self, raw: bytes | None) -> View | None:
        """Return what the meta entry *raw* leads to, or `None` where no known secret opens it."""
        if raw is None:
            return None
        key = raw, len(self.secrets)
        if key not in self._views:
            self._views[key] = self._opened(raw)
        return self._views[key]

    def _opened(self, raw: bytes) -> View | None:
        value = seams.meta_value(raw)
        if value is None:
            return None
        try:
            meta = seams.VaultMeta.from_value(value)
            for secret in reversed(self.secrets):
                root = seams.root_of(meta, secret, EPOCH)
                if root is not None:
                    keyring = seams.keyring_of(meta, root)
                    deks, legacy = seams.deks_of(keyring), seams.legacy_codecs_of(keyring)
                    return View(meta, keyring, deks, legacy, frozenset(deks.items()))
        except seams.KvsealError:
            return None
        return None

    def look(self, name: str, view: View | None) -> Seen:
        """Open what lives under *name* by the server's clock, with *view*."""
        raw = self._server.live(name)
        return MISSING if raw is None else self.look_at(name, raw, view)

    def look_at(self, name: str, raw: bytes, view: View | None) -> Seen:
        value = seams.meta_value(raw)
        if value is None:
            return Seen("foreign", reason="unreadable body")
        if not seams.is_sealed(value):
            return self._old(name, raw, value, view)
        try:
            dek, _ = seams.header_of(value)
        except seams.RecordError as exc:
            return Seen("lost", reason=type(exc).__name__)
        key = None if view is None else (view.keyring.vault_id, view.keys)
        known = self._seen.get((name, raw, key))
        if known is None:
            known = self._seen[name, raw, key] = self._sealed(name, value, dek, view)
        return known

    def _sealed(self, name: str, value: dict[str, Any], dek: int, view: View | None) -> Seen:
        if view is None:
            return Seen("lost", dek=dek, reason="no vault meta that opens")
        collection, _, key = name.partition("::")
        needs = [dek]
        try:
            opened, expires = seams.codec_of(view.keyring).open(value, collection, key)
            if seams.is_sealed(opened):
                needs.append(seams.header_of(opened)[0])
                opened, _ = seams.codec_of(view.keyring).open(opened, collection, key)
        except seams.RecordError as exc:
            return Seen("lost", dek=dek, reason=f"{type(exc).__name__}, DEK {dek}")
        ends = None if expires is None else expires / 1000
        is_dying = bool(view.keyring.retired.intersection(needs))
        reason = f"retired, DEK {dek}" if is_dying else ""
        return Seen("opens", opened.get("v"), dek, reason, expires=ends, is_dying=is_dying)

    def _old(self, name: str, raw: bytes, value: dict[str, Any], view: View | None) -> Seen:
        for codec in () if view is None else view.legacy:
            if codec.recognises(value):
                try:
                    return Seen("opens", codec.open(value).get("v"))
                except seams.RecordError as exc:
                    return Seen("lost", reason=type(exc).__name__)
        key = name, raw, "old"
        if key not in self._seen:
            self._seen[key] = self._by_the_old_key(value)
        return self._seen[key]

    def _by_the_old_key(self, value: dict[str, Any]) -> Seen:
        (codec,) = seams.codecs_for([(seams.OLD_LEGACY_KEY.kind, seams.OLD_LEGACY_KEY.key)])
        if not codec.recognises(value):
            return Seen("foreign", reason="of no known format")
        try:
            return Seen("old", codec.open(value).get("v"))
        except seams.RecordError as exc:
            return Seen("lost", reason=type(exc).__name__)

    def names(self) -> Iterable[str]:
        """Return the users' entries that live."""
        return [n for n in sorted(self._server.data) if n.startswith(COLLECTION) and self._server.live(n)]

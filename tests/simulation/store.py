"""kvseal's `Driver`, and py-key-value's own base store, over the simulated backend."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from key_value.aio.stores.base import BaseStore
from tests.simulation import seams
from tests.simulation.loop import CURRENT, EPOCH
from tests.simulation.server import KEEP

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from tests.simulation.server import Raw, Wire


class SimDriver:
    """As the driver of Redis: bodies that name themselves, native expiry, what has expired is left out."""

    location = "sim:"
    capabilities = seams.Capabilities(atomic_replace=True, evicts=False, keeps_time=True)

    def __init__(self, wire: Wire) -> None:
        self._wire, self._server = wire, wire.server

    async def _call(self, verb: str, names: tuple[str, ...], effect: Callable[[], Any]) -> Any:
        try:
            return await self._wire.call(verb, names, effect)
        except ConnectionError as exc:
            msg = f"sim: {exc}"
            raise seams.StoreUnreachableError(msg) from exc

    async def scan(
        self, *, after: str | None = None, partition: tuple[int, int] = (0, 1), expired: bool = False
    ) -> AsyncIterator[seams.Page]:
        cursor = after or ""
        while found := await self._page(cursor):
            cursor = found[-1][0]
            read = (entry_of(name, raw, expired=expired) for name, raw in found)
            entries = [entry for entry in read if entry is not None]
            if entries:
                yield seams.Page(entries, cursor)

    async def _page(self, cursor: str) -> list[tuple[str, bytes]]:
        found: list[tuple[str, bytes]] = await self._call(
            "scan", (cursor,), lambda: self._server.page(cursor)
        )
        return found

    async def get(self, collection: str, key: str) -> seams.Entry | None:
        name = f"{collection}::{key}"
        raw = await self._call("get", (name,), lambda: self._server.live(name))
        return None if raw is None else entry_of(name, raw)

    async def put_if_absent(self, entry: seams.Entry) -> bool:
        assert entry.value is not None
        names = (str(entry.collection), str(entry.key))
        body = seams.write_body(
            entry.value, created_at=entry.created_at, expires_at=entry.expires_at, names=names
        )
        name, ends = "::".join(names), _ends(entry.expires_at)
        return bool(await self._call("add", (name,), lambda: self._server.add(name, body.encode(), ends)))

    async def replace_many(self, replacements: Sequence[seams.Replacement]) -> Sequence[bool]:
        swaps = [
            (
                r.entry.locator,
                r.entry.stored,
                seams.patch_body(r.entry.stored, r.value, r.expires_at).encode(),
                _ends(r.expires_at),
            )
            for r in replacements
        ]
        return await self._swap(swaps)

    async def delete_if_unchanged(self, entry: seams.Entry) -> bool:
        return (await self._swap([(entry.locator, entry.stored, None, None)]))[0]

    async def _swap(self, swaps: list[Any]) -> list[bool]:
        names = tuple(swap[0] for swap in swaps)
        done: list[bool] = await self._call("swap", names, lambda: self._server.swap(swaps))
        return done

    async def store_time(self) -> seams.StoreTime:
        before = seams.clock.monotonic()
        at: float = await self._call("time", (), lambda: EPOCH + self._server.clock())
        return seams.StoreTime(datetime.fromtimestamp(at, timezone.utc), before, seams.clock.monotonic())

    async def close(self) -> None:
        pass


class SimStore(BaseStore):
    """The application's store: py-key-value's own base class, its bodies and its client-side expiry."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        super().__init__(stable_api=True)

    async def _get_managed_entry(self, *, collection: str, key: str) -> Any:
        name = f"{collection}::{key}"
        raw = await self.wire.call("read", (name,), lambda: self.wire.server.live(name))
        return None if raw is None else self._serialization_adapter.load_json(json_str=raw.decode())

    async def _put_managed_entry(self, *, collection: str, key: str, managed_entry: Any) -> None:
        body = self._serialization_adapter.dump_json(entry=managed_entry, key=key, collection=collection)
        ttl, server, name = managed_entry.ttl, self.wire.server, f"{collection}::{key}"

        def effect() -> bool:
            return server.set(name, body.encode(), None if ttl is None else server.clock() + ttl)

        await self.wire.call("set", (name,), effect)

    async def _delete_managed_entry(self, *, key: str, collection: str) -> bool:
        name = f"{collection}::{key}"
        return bool(await self.wire.call("delete", (name,), lambda: self.wire.server.set(name, None)))


def for_store(store: SimStore) -> SimDriver:
    """Return the driver of *store*: how kvseal finds it."""
    return SimDriver(store.wire)


def without_expiry(raw: Raw) -> Raw:
    """Return *raw* as a backend keeps it that has lost every time to live."""
    body = seams.read_body(raw[0])
    names = (str(body.collection), str(body.key))
    text = seams.write_body(body.value, created_at=body.created_at, expires_at=None, names=names)
    return text.encode(), None


def entry_of(name: str, raw: bytes, *, expired: bool = False) -> seams.Entry | None:
    """Return the entry in *raw*; unless *expired* may be seen, `None` where the client's clock says so."""
    try:
        body = seams.read_body(raw)
    except seams.UnreadableBodyError as exc:
        return seams.Entry(None, None, None, locator=name, stored=raw, problem=str(exc))
    if not expired and body.expires_at is not None and body.expires_at <= _now():
        return None
    return seams.Entry(
        body.collection, body.key, body.value, body.created_at, body.expires_at, locator=name, stored=raw
    )


def _ends(moment: datetime | seams._Keep | None) -> Any:
    """Return an expiry that a driver writes: it is absolute, and the server takes it by its own clock."""
    if isinstance(moment, seams._Keep):
        return KEEP
    return None if moment is None else moment.timestamp() - EPOCH


def _now() -> datetime:
    process = CURRENT.get()
    assert process is not None
    return datetime.fromtimestamp(process.host.wall(), timezone.utc)

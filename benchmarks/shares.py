"""
Where the time of a migration goes: backend, Fernet, sealing, and the rest.

Each part is timed where it is called, with one page in flight, so that nothing overlaps and the
parts add up to the whole.  Usually the next page is read while others are opened and written.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode
from collections import Counter
from contextlib import contextmanager
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final
from unittest.mock import patch

from cryptography.fernet import Fernet
from key_value.aio.wrappers.base import BaseWrapper
from key_value.aio.wrappers.encryption.fernet import FernetEncryptionWrapper

from kvseal.drivers import driver_for
from kvseal.drivers.delegate import DelegatingDriver
from kvseal.legacy import FernetCodec
from kvseal.recoding import SealedTarget, plan_migration, recode, walk

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping, Sequence

    from benchmarks.contest import Contest
    from kvseal.drivers.base import Driver, Entry, Page, Replacement

PARTS: Final = ("backend", "Fernet", "sealing")


class Stopwatch(Counter[str]):
    """Seconds by part."""

    @contextmanager
    def on(self, part: str) -> Iterator[None]:
        """Add what the block takes to *part*."""
        started = perf_counter()
        try:
            yield
        finally:
            self[part] += perf_counter() - started

    def shares(self, seconds: float) -> dict[str, float]:
        """Return the share of each part in *seconds*, and of what is left."""
        known = {part: round(self[part] / seconds, 3) for part in PARTS}
        return {**known, "rest": round(1 - sum(known.values()), 3)}


async def of_recode(contest: Contest) -> dict[str, float]:
    """Return the shares of a recode without its verify pass."""
    watch = Stopwatch()
    async with contest.sealing() as (store, vault):
        driver = _Driver(driver_for(store), watch)
        codec, target = _Codec(contest.key, watch), _Target(SealedTarget.of(vault), watch)
        plan = plan_migration(target, [codec], vault=vault, verify=False)
        with patch.object(walk, "PAGES_IN_FLIGHT", 1):
            started = perf_counter()
            await recode(driver, plan)
            seconds = perf_counter() - started
        await driver.close()
    return watch.shares(seconds)


async def of_loop(contest: Contest) -> dict[str, float]:
    """Return the shares of the loop; what the new wrapper does beside calling the store is sealing."""
    watch = Stopwatch()
    async with contest.copy() as store:
        timed = _Store(store, watch)
        old = FernetEncryptionWrapper(timed, fernet=_Fernet(contest.key, watch))
        new = contest.new(timed)
        await new.get("nobody")
        watch.clear()
        started = perf_counter()
        for key in contest.keys:
            value, ttl = await old.ttl(key)
            if value is not None:
                in_backend = watch["backend"]
                with watch.on("sealing"):
                    await new.put(key, value, ttl=ttl)
                watch["sealing"] -= watch["backend"] - in_backend
        seconds = perf_counter() - started
    return watch.shares(seconds)


class _Driver(DelegatingDriver):
    def __init__(self, driver: Driver, watch: Stopwatch) -> None:
        super().__init__(driver)
        self._watch = watch

    async def scan(
        self, *, after: str | None = None, partition: tuple[int, int] = (0, 1), expired: bool = False
    ) -> AsyncIterator[Page]:
        pages = self._driver.scan(after=after, partition=partition, expired=expired)
        while True:
            with self._watch.on("backend"):
                page = await anext(pages, None)
            if page is None:
                return
            yield page

    async def replace_many(self, replacements: Sequence[Replacement]) -> Sequence[bool]:
        with self._watch.on("backend"):
            return await self._driver.replace_many(replacements)


class _Codec(FernetCodec):
    __slots__ = ("_watch",)

    def __init__(self, key: bytes, watch: Stopwatch) -> None:
        super().__init__([urlsafe_b64decode(key)])
        self._watch = watch

    def open(self, stored: Mapping[str, Any], *names: str | None) -> dict[str, Any]:
        with self._watch.on("Fernet"):
            return super().open(stored, *names)


class _Target(SealedTarget):
    __slots__ = ("_watch",)

    def __init__(self, target: SealedTarget, watch: Stopwatch) -> None:
        super().__init__(target._codec_for)  # noqa: SLF001 - there is no other way to its codec
        self._watch = watch

    def seal(self, value: Mapping[str, Any], entry: Entry, expires_at: int | None) -> dict[str, Any]:
        with self._watch.on("sealing"):
            return super().seal(value, entry, expires_at)


class _Fernet(Fernet):
    def __init__(self, key: bytes, watch: Stopwatch) -> None:
        super().__init__(key)
        self._watch = watch

    def decrypt(self, token: bytes | str, ttl: int | None = None) -> bytes:
        with self._watch.on("Fernet"):
            return super().decrypt(token, ttl)


class _Store(BaseWrapper):
    def __init__(self, store: Any, watch: Stopwatch) -> None:
        self.key_value = store
        self._watch = watch
        super().__init__()

    async def ttl(self, key: str, *, collection: str | None = None) -> Any:
        with self._watch.on("backend"):
            return await self.key_value.ttl(key, collection=collection)

    async def put(self, key: str, value: Mapping[str, Any], **options: Any) -> None:
        with self._watch.on("backend"):
            await self.key_value.put(key, value, **options)

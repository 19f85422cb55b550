"""
Two ways to migrate the same records: the loop that people write today, and `recode`.

The loop is given the list of keys for nothing.  It reads each with `ttl()` through the old
wrapper and writes it with `put()` through the new one, which is open already.  Both work
in the same event loop, in turns, each on a fresh copy of the store.
"""

from __future__ import annotations

import os
from base64 import urlsafe_b64decode
from contextlib import asynccontextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

from cryptography.fernet import Fernet
from key_value.aio.wrappers.encryption.fernet import FernetEncryptionWrapper

from benchmarks.peers import CHEAP
from benchmarks.shapes import flat
from kvseal import EnvelopeEncryptionWrapper, Secret, Vault
from kvseal.legacy import FernetCodec
from kvseal.recoding import SealedTarget, plan_migration, recode

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from contextlib import AbstractAsyncContextManager

    from benchmarks.backends import Backend

TTL: Final = 24 * 3600
SIZE: Final = 1024


@dataclass(frozen=True, slots=True)
class Turn:
    """Seconds for all records: the loop, `recode` without its verify pass, and with it."""

    loop: float
    recode: float
    verified: float


class Contest:
    """Migrations of *records* Fernet records of 1 KiB, each with a TTL, on one backend."""

    def __init__(self, backend: Backend, records: int) -> None:
        self._backend = backend
        self.key = Fernet.generate_key()
        self.keys: Sequence[str] = [f"user-{number:08}" for number in range(records)]
        self._secret = Secret(os.urandom(32))

    async def fill(self) -> None:
        """Write the records as an application has: by py-key-value's own wrapper."""
        value = flat(SIZE)
        async with self._backend.filled() as store:
            old = self.old(store)
            for key in self.keys:
                await old.put(key, value, ttl=TTL)

    def copy(self) -> AbstractAsyncContextManager[Any]:
        """Open a fresh copy of what was filled."""
        return self._backend.copy()

    async def turn(self) -> Turn:
        """Let each migrate a copy of its own."""
        return Turn(await self.loop(), await self.recode(verify=False), await self.recode(verify=True))

    async def loop(self) -> float:
        """Return the seconds that the loop takes."""
        async with self.copy() as store:
            old, new = self.old(store), self.new(store)
            # The vault is made, and its key derived, before the clock starts: here and for `recode`.
            await new.get("nobody")
            started = perf_counter()
            for key in self.keys:
                value, ttl = await old.ttl(key)
                if value is not None:
                    await new.put(key, value, ttl=ttl)
            seconds = perf_counter() - started
            await self._check(new)
        return seconds

    async def recode(self, *, verify: bool) -> float:
        """Return the seconds that `recode` takes, on the store object as an application has it."""
        async with self.sealing() as (store, vault):
            plan = plan_migration(SealedTarget.of(vault), [self.codec()], vault=vault, verify=verify)
            started = perf_counter()
            report = await recode(store, plan)
            seconds = perf_counter() - started
            assert report.changed == len(self.keys), report
            await self._check(self.new(store))
        return seconds

    @asynccontextmanager
    async def sealing(self) -> AsyncIterator[tuple[Any, Vault]]:
        """Yield a copy and its open vault."""
        async with self.copy() as store:
            vault = await Vault.create(store, secret=self._secret, kdf=CHEAP)
            try:
                yield store, vault
            finally:
                await vault.close()

    def old(self, store: Any) -> FernetEncryptionWrapper:
        """Return the wrapper that the records were written by."""
        return FernetEncryptionWrapper(store, fernet=Fernet(self.key))

    def new(self, store: Any) -> EnvelopeEncryptionWrapper:
        """Return the wrapper that they are to be read by."""
        return EnvelopeEncryptionWrapper(store, secret=self._secret, kdf=CHEAP)

    def codec(self) -> FernetCodec:
        """Return what opens them in a recode."""
        return FernetCodec([urlsafe_b64decode(self.key)])

    async def _check(self, new: EnvelopeEncryptionWrapper) -> None:
        """A migration that lost a value, or its TTL, would be fast, too."""
        for key in (self.keys[0], self.keys[-1]):
            value, ttl = await new.ttl(key)
            assert value == flat(SIZE), key
            assert ttl is not None, key
            assert 0 < ttl <= TTL, ttl

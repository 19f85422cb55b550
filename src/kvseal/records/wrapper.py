"""
The wrapper that most users import: a drop-in `AsyncKeyValue` that seals values for the store below.

`get` and `put` do the least that is correct, because every request of a service
goes through them.  Rare work is elsewhere: unlocking, an unknown DEK, legacy
records, errors.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NoReturn

from key_value.aio.wrappers.encryption.base import BaseEncryptionWrapper
from key_value.aio.wrappers.read_only import ReadOnlyWrapper
from typing_extensions import Self, override

from kvseal import clock, expiry
from kvseal.concurrency import SingleFlight, slices_between_turns
from kvseal.drivers.chain import Chain
from kvseal.drivers.wrapper_orders import warn_of_orders
from kvseal.envelope.stored import VERSION
from kvseal.errors import RecordError, VaultLockedError
from kvseal.keys.keyring import codec_key
from kvseal.records.base_names import BaseNames
from kvseal.records.capabilities import with_capabilities_of
from kvseal.records.holding import Holding
from kvseal.records.reading import Reader
from kvseal.records.resealing import Resealer
from kvseal.vault.health import Health
from kvseal.vault.opening import Opening
from kvseal.vault.vault import Vault

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from datetime import timedelta
    from typing import SupportsFloat

    from key_value.aio.protocols.key_value import AsyncKeyValue
    from typing_extensions import Unpack

    from kvseal.envelope.kdf import Argon2idParams
    from kvseal.vault.opening import OpeningOptions

_log = logging.getLogger("kvseal")


class EnvelopeEncryptionWrapper(BaseEncryptionWrapper):
    """
    Seals every value with AES-256-GCM, bound to its collection and key, before *key_value* stores it.

    The constructor touches nothing: the first operation opens the vault or, with *create*,
    creates it.  The wrapper has `keys`, `collections`, `cull`, `destroy_collection`, `setup`,
    `close` and `async with` exactly if *key_value* has them.

    Args:
        key_value: The store for the sealed values.
        secret: A `Secret`, a wrap key of `kvseal.wrapkeys`, a reference such as `env:NAME`, `file:PATH` or
            `transit:MOUNT/KEY`, or `None` for the default order.
        create: Create the vault if the store has none, which is the default.
        meta_store: A separate store for the vault meta, needed if *key_value* evicts entries.
        kdf: The Argon2id cost of a new vault; a wrap key has none.
        memory_ceiling: The most memory, in KiB, that a stored keyslot may need.
        context: A text to which every record is bound too.  Wrappers of different contexts cannot read
            each other's records.
        raise_on_decryption_error: With `False`, a record that cannot be opened reads as missing;
            each case is logged and counted in `unreadable`.  An attacker can then hide records.
        refresh_after: The most seconds after which a writer learns of a newer DEK.
        pin: A file that remembers the newest vault meta, so that an older one is refused after a restart.
        idle_timeout: Seconds, or a `timedelta`, after which the vault forgets unused keys.
        when_locked: What operations do then, and after `lock`: `"fail"` or, with the secret's reference,
            `"unlock"` the vault again.
        hold: The old format, `"fernet"` or `"plaintext"`, that this process may write while the vault's
            policy holds it, so that old and new releases run side by side.  It creates no vault.
        vault: An open vault to use instead of opening one.  It stays open when the wrapper is closed.

    Raises:
        SecretReferenceError: *secret* is a `str` but not a reference.
        TypeError: *vault* is given together with an option that only opens or creates a vault.
        ValueError: an option has an invalid value; see `kvseal.vault.opening.Opening`.
    """

    SEALS_RECORDS: Final = True
    """The mark by which `kvseal.drivers` recognises this wrapper: below it are only sealed records."""

    unreadable: Counter[str]
    """With `raise_on_decryption_error=False`: records that read as missing, by error class."""

    resealed: Counter[str]
    """
    Records that reads tried to seal, by outcome: see `kvseal.records.resealing`.

    Legacy and plaintext ones, and sealed ones without their names on a store that loses names.
    """

    held: Counter[str]
    """Values that were written in the old format that the policy holds: see `kvseal.records.holding`."""

    def __new__(cls, key_value: AsyncKeyValue, **_: Any) -> Self:
        """Compose a class with the capabilities of *key_value*."""
        wrapper: Self = object.__new__(with_capabilities_of(key_value, cls))
        return wrapper

    def __init__(
        self,
        key_value: AsyncKeyValue,
        *,
        create: bool | None = None,
        kdf: Argon2idParams | None = None,
        context: str = "",
        raise_on_decryption_error: bool = True,
        vault: Vault | None = None,
        **options: Unpack[OpeningOptions],
    ) -> None:
        if vault is not None:
            _refuse_beside_vault(create=create, kdf=kdf, **options)
        Opening(**options)  # Raises now, not at the first operation.
        chain = Chain.of(key_value)
        warn_of_orders(chain)
        super().__init__(
            key_value=key_value,
            encryption_fn=_never,
            decryption_fn=_never,
            encryption_version=VERSION,
            raise_on_decryption_error=raise_on_decryption_error,
        )
        self._create = (
            create is not False
            and options.get("hold") is None
            and not any(isinstance(w, ReadOnlyWrapper) for w in (key_value, *chain.wrappers))
        )
        self._kdf = kdf
        self._given = options
        self._vault = vault
        self._owns_vault = vault is None
        self._opening: SingleFlight[Vault] = SingleFlight()
        self._names = BaseNames(chain)
        self._codec_key = codec_key(context, loses_names=self._names.loses_names)
        self._resealer = Resealer(chain)
        self._holding = Holding()
        self._reader = Reader(self.vault, self._codec_key, self._resealer, raises=raise_on_decryption_error)
        self.resealed = self._resealer.outcomes
        self.held = self._holding.outcomes
        self.unreadable = self._reader.unreadable
        self._has_plain_names = self._names.is_plain
        self._only_dots_lead_out = self._names.only_dots_lead_out
        self._collections = self._names.collections
        self._check_value = self._names.check_value

    async def vault(self) -> Vault:
        """Return the open vault, opening or creating it first."""
        if self._vault is None:
            self._vault = await self._opening.run(self._open_vault)
        return self._vault

    @override
    async def get(self, key: str, *, collection: str | None = None) -> dict[str, Any] | None:
        """
        Return the value that was put under this name, or `None` if it is missing or expired.

        Raises:
            RecordError: the stored value is not a record of this vault for this name.
        """
        if self._has_plain_names or (self._only_dots_lead_out and "." not in key and "%" not in key):
            base, name = self._collections[collection], key
        else:
            base, name = self._names.of(collection, key)
        vault = self._vault or await self.vault()
        try:
            codec = vault.codecs[self._codec_key]
        except VaultLockedError:
            codec = await self._reader.codec()
        stored = await self.key_value.get(key, collection=collection)
        if stored is None:
            return None
        try:
            value, expires_at = codec.opening[base](stored, name)
        except RecordError:
            again = partial(self.key_value.get, key, collection=collection)
            return (await self._reader.read(stored, (base, name), again))[0]
        return value if expires_at is None or expires_at > clock.wall_ms() else None

    @override
    async def ttl(
        self, key: str, *, collection: str | None = None
    ) -> tuple[dict[str, Any] | None, float | None]:
        """Return the value and its remaining seconds: until the store's or the sealed expiry."""
        names = self._names.of(collection, key)
        await self.vault()
        stored, ttl = await self.key_value.ttl(key=key, collection=collection)
        again = partial(self.key_value.get, key, collection=collection)
        return expiry.live(*await self._reader.read(stored, names, again), ttl)

    @override
    async def put(
        self,
        key: str,
        value: Mapping[str, Any],
        *,
        collection: str | None = None,
        ttl: SupportsFloat | None = None,
    ) -> None:
        """
        Seal *value* and store it.

        Raises:
            UnsealableValueError: `get` could not return *value* exactly, or the store cannot hold one as
                large as this (`EntryTooLargeError`); nothing was written.
            InvalidTTLError: *ttl* is not a positive number of seconds.
            StaleKeyringError: the vault meta could not be read for too long.
            HoldNotPermittedError: the policy holds an old format that this process may not write.
        """
        if self._has_plain_names or (self._only_dots_lead_out and "." not in key and "%" not in key):
            base, name = self._collections[collection], key
        else:
            base, name = self._names.of(collection, key)
        vault = self._vault or await self.vault()
        freshness = vault.freshness
        if freshness.clock() >= freshness.due:
            await vault.confirm()
            if vault.holds:
                await self._put_held(key, value, collection, ttl, vault)
                return
        try:
            codec = vault.codecs[self._codec_key]
        except VaultLockedError:
            codec = await self._reader.codec()
        # Computed after the vault is open, so that a key derivation does not shorten the time to live.
        expires_at = None if ttl is None else expiry.expiry_of(ttl)
        sealed = codec.sealing[base](value, name, expires_at)
        if self._check_value is not None:
            self._check_value(base, name, sealed)
        await self.key_value.put(key, sealed, collection=collection, ttl=ttl)

    @override
    async def delete(self, key: str, *, collection: str | None = None) -> bool:
        """Delete the entry, readable or not; return whether there was one."""
        self._names.of(collection, key)
        return await self.key_value.delete(key=key, collection=collection)

    @override
    async def get_many(
        self, keys: Sequence[str], *, collection: str | None = None
    ) -> list[dict[str, Any] | None]:
        """
        Return what `get` would for each key.

        Raises:
            UnreadableRecordsError: after every record was tried; it names all that failed.
        """
        names = await self._names.of_many(collection, keys)
        await self.vault()
        stored = await self.key_value.get_many(keys=keys, collection=collection)
        opened = await self._reader.read_many(stored, names, self._again(keys, collection))
        return [
            value if expires_at is None else expiry.live(value, expires_at, None)[0]
            for value, expires_at in opened
        ]

    @override
    async def ttl_many(
        self, keys: Sequence[str], *, collection: str | None = None
    ) -> list[tuple[dict[str, Any] | None, float | None]]:
        """Return what `ttl` would for each key; raises like `get_many`."""
        names = await self._names.of_many(collection, keys)
        await self.vault()
        entries = await self.key_value.ttl_many(keys=keys, collection=collection)
        stored = [one for one, _ in entries]
        opened = await self._reader.read_many(stored, names, self._again(keys, collection))
        return [expiry.live(*pair, ttl) for pair, (_, ttl) in zip(opened, entries, strict=True)]

    @override
    async def put_many(
        self,
        keys: Sequence[str],
        values: Sequence[Mapping[str, Any]],
        *,
        collection: str | None = None,
        ttl: SupportsFloat | None = None,
    ) -> None:
        """Seal every value, then store them all; raises like `put`, before anything was written."""
        if len(keys) != len(values):
            msg = f"put_many was given {len(keys)} keys and {len(values)} values"
            raise ValueError(msg)
        names = await self._names.of_many(collection, keys)
        vault = await self.vault()
        await vault.confirm()
        if vault.holds:
            await self._put_many_held(keys, values, collection, ttl, vault)
            return
        sealing = (await self._reader.codec()).sealing
        expires_at = None if ttl is None else expiry.expiry_of(ttl)
        sealed: list[dict[str, Any]] = []
        async for part in slices_between_turns(len(names)):
            few = zip(values[part], names[part], strict=True)
            sealed += [sealing[base](value, name, expires_at) for value, (base, name) in few]
        self._check_sizes(names, sealed)
        await self.key_value.put_many(keys=keys, values=sealed, collection=collection, ttl=ttl)

    @override
    async def delete_many(self, keys: Sequence[str], *, collection: str | None = None) -> int:
        """Delete the entries, readable or not; return how many there were."""
        await self._names.of_many(collection, keys)
        return await self.key_value.delete_many(keys=keys, collection=collection)

    def health(self, *, max_dek_age: timedelta | None = None) -> Health:
        """Return the health of the vault, from memory alone: this opens nothing."""
        if self._vault is None:
            return Health.not_opened()
        return self._vault.health(max_dek_age=max_dek_age)

    async def unlock(self) -> None:
        """Open the vault now, or unlock it again, before the next operation needs it."""
        await (await self.vault()).unlock()

    async def release(self) -> None:
        """
        Forget the keys, and close the driver that re-seals records.

        The next operation opens the vault again.  A vault passed as *vault* keeps its keys.
        """
        try:
            await self._resealer.close()
        finally:
            if self._owns_vault and self._vault is not None:
                vault, self._vault = self._vault, None
                await vault.close()

    async def _put_held(
        self,
        key: str,
        value: Mapping[str, Any],
        collection: str | None,
        ttl: SupportsFloat | None,
        vault: Vault,
    ) -> None:
        stored = self._holding.stored(value, vault)
        self._check_sizes([self._names.of(collection, key)], [stored])
        if ttl is not None:
            expiry.expiry_of(ttl)
        await self.key_value.put(key, stored, collection=collection, ttl=ttl)

    async def _put_many_held(
        self,
        keys: Sequence[str],
        values: Sequence[Mapping[str, Any]],
        collection: str | None,
        ttl: SupportsFloat | None,
        vault: Vault,
    ) -> None:
        if ttl is not None:
            expiry.expiry_of(ttl)
        stored: list[dict[str, Any]] = []
        async for part in slices_between_turns(len(values)):
            stored += [self._holding.stored(value, vault) for value in values[part]]
        self._check_sizes(await self._names.of_many(collection, keys), stored)
        await self.key_value.put_many(keys=keys, values=stored, collection=collection, ttl=ttl)

    def _check_sizes(self, names: Sequence[tuple[str, str]], stored: Sequence[Mapping[str, Any]]) -> None:
        """Raise if the store cannot hold one of *stored*, before it is given any of them."""
        if self._check_value is not None:
            for (base, name), one in zip(names, stored, strict=True):
                self._check_value(base, name, one)

    def _again(
        self, keys: Sequence[str], collection: str | None
    ) -> Callable[[int], Awaitable[dict[str, Any] | None]]:
        return lambda number: self.key_value.get(keys[number], collection=collection)

    def _base_collection(self, collection: str | None) -> str:
        return self._collections[collection]

    async def _open_vault(self) -> Vault:
        if self._create:
            return await Vault.open_or_create(self.key_value, kdf=self._kdf, **self._given)
        return await Vault.open(self.key_value, **self._given)


def _refuse_beside_vault(**options: object) -> None:
    """Raise `TypeError` for options that would have no effect beside an open vault."""
    given = [name for name, value in options.items() if value is not None]
    if given:
        msg = f"an open vault was given, so {', '.join(given)} would have no effect: omit them"
        raise TypeError(msg)


def _never(*_: object) -> NoReturn:
    msg = "kvseal seals with the names of a record, which the functions of the base class do not get"
    raise NotImplementedError(msg)

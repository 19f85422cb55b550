"""
Everything of kvseal that the simulation names, and all that it replaces: move it here when kvseal moves.

Import this first, and only in an interpreter of its own: it replaces the clocks, and then imports kvseal.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import gc
import logging
import random
import warnings
from base64 import b64encode
from functools import cache, lru_cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from cryptography.fernet import Fernet
from key_value.aio._utils import time_to_live
from key_value.aio.wrappers.encryption.fernet import FernetEncryptionWrapper
from tests.simulation import clocks
from tests.simulation.clocks import PerProcess, real_clock
from tests.simulation.loop import CURRENT, EPOCH, Process

from kvseal import Argon2idParams, EnvelopeEncryptionWrapper, Secret, Vault, clock, recode, verify
from kvseal.backup import backup, restore
from kvseal.backup.file import BackupReader, is_meta
from kvseal.drivers import backends
from kvseal.drivers.base import Capabilities, Entry, Page, Replacement, StoreTime, _Keep
from kvseal.drivers.body import UnreadableBodyError, patch_body, read_body, write_body
from kvseal.drivers.landing import JoinedPlaces
from kvseal.envelope import kdf
from kvseal.envelope.record import Header
from kvseal.envelope.stored import from_stored, is_sealed
from kvseal.errors import (
    Conflict,
    KvsealError,
    LegacyRecordError,
    PlaintextRecordError,
    RecordError,
    StoreUnreachableError,
    WrongSecretError,
)
from kvseal.keys import changes, unlocking
from kvseal.keys import meta as metas
from kvseal.keys.keyring import Keyring, LegacyKey
from kvseal.keys.keyslot import Keyslot
from kvseal.keys.meta import VaultMeta
from kvseal.keys.policy import Policy
from kvseal.keys.rootkey import RootKey
from kvseal.legacy import FERNET, codecs_for
from kvseal.legacy.fernet import parse_key
from kvseal.observe import telemetry
from kvseal.recoding import PlaintextRule, import_keys, migrate, plan_reencryption, retire
from kvseal.recoding.progress import lease_holder
from kvseal.recoding.progress.checkpoint import plan_id
from kvseal.vault.seen import newest

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "BackupReader",
    "Capabilities",
    "Conflict",
    "Entry",
    "EnvelopeEncryptionWrapper",
    "FernetEncryptionWrapper",
    "KvsealError",
    "LegacyRecordError",
    "Page",
    "PlaintextRecordError",
    "PlaintextRule",
    "RecordError",
    "Replacement",
    "Secret",
    "StoreTime",
    "StoreUnreachableError",
    "UnreadableBodyError",
    "Vault",
    "VaultMeta",
    "WrongSecretError",
    "_Keep",
    "backup",
    "clock",
    "codecs_for",
    "import_keys",
    "is_meta",
    "is_sealed",
    "migrate",
    "patch_body",
    "plan_reencryption",
    "read_body",
    "real_clock",
    "recode",
    "restore",
    "retire",
    "verify",
    "write_body",
]

MODULES = {
    "census": "kvseal.recoding.census",
    "changes": "kvseal.keys.changes",
    "checkpoint": "kvseal.recoding.progress.checkpoint",
    "creation": "kvseal.vault.creation",
    "engine": "kvseal.recoding.engine",
    "formats": "kvseal.recoding.formats",
    "freshness": "kvseal.vault.freshness",
    "meta": "kvseal.keys.meta",
    "metastore": "kvseal.vault.metastore",
    "migration": "kvseal.recoding.migration",
    "newest": "kvseal.vault.seen.newest",
    "resealing": "kvseal.records.resealing",
    "restoring": "kvseal.backup.restoring",
    "retirement": "kvseal.recoding.retirement",
    "store_clock": "kvseal.vault.store_clock",
    "session": "kvseal.vault.session",
    "taking": "kvseal.backup.taking",
    "wrapper": "kvseal.records.wrapper",
    "writing": "kvseal.recoding.writing",
}
"""Where the bugs are planted: see `planted`."""


def module(name: str) -> Any:
    """Return a module of kvseal, of which a function may have the name."""
    return import_module(MODULES[name])


META_COLLECTION = "__vault_meta__"
META = f"{META_COLLECTION}::__dek__"
CHECKPOINT = f"{META_COLLECTION}::__recode__"
"""The head; each part is under this name and a number."""
FIRST_PART = f"{CHECKPOINT}0000"
REFRESH_AFTER = 60.0
LIMIT = 10
CHEAP = Argon2idParams(time_cost=1, memory_cost=8, parallelism=1)
OLD_KEY = b"c2ltdWxhdGlvbiBzaW11bGF0aW9uIHNpbXVsYXRpb24="
OLD_FERNET = Fernet(OLD_KEY)
OLD_LEGACY_KEY = LegacyKey(FERNET, parse_key(OLD_KEY))
_MEMORY_CEILING = 2**20


def _per_process(module: Any, *names: str) -> None:
    for name in names:
        setattr(module, name, PerProcess(f"{module.__name__}.{name}", getattr(module, name)))


class _SimBackend(backends.Backend):
    """The row of the simulated backend: names land as on Redis."""

    def driver_for(self, store: Any) -> Any:
        return import_module(self.module).for_store(store)

    def landing_of(self, _: Any) -> JoinedPlaces:
        return JoinedPlaces()


def _spawn(target: Callable[[], None]) -> None:
    """Where kvseal starts a thread of its own, the work is one step that the loop chooses the time of."""
    asyncio.get_running_loop().call_soon(target)


class _SimHolder:
    """Who holds a lease, as a simulated process: see `kvseal.recoding.progress.lease_holder`."""

    @staticmethod
    def new() -> Any:
        process = _process()
        token = process.random.randbytes(8).hex()
        return lease_holder.LeaseHolder(process.host.name, process.host.name, process.pid, process.pid, token)

    @staticmethod
    def machine() -> str:
        return _process().host.name

    @staticmethod
    def started(pid: int) -> int | None:
        processes = _process().loop.processes
        number = pid - 1000
        return pid if 0 <= number < len(processes) and processes[number].is_alive else None


def _process() -> Process:
    process = CURRENT.get()
    assert process is not None
    return process


def _nothing(*_: object) -> float:
    return 0.0


def _install() -> None:
    clocks.replace_datetime(clock, time_to_live)
    _per_process(newest, "_newest")
    _per_process(unlocking, "_held", "_running", "_unclaimed")
    unlocking._spawn = _spawn
    unlocking._keep = _nothing  # type: ignore[assignment]
    clock.thread_cpu = _nothing  # type: ignore[assignment]
    lease_holder.LeaseHolder.new = _SimHolder.new  # type: ignore[method-assign]
    lease_holder._machine = _SimHolder.machine  # type: ignore[assignment]
    lease_holder._started = _SimHolder.started
    kdf.hash_secret_raw = cache(kdf.hash_secret_raw)  # One derivation for each salt, not one a process.
    metas.time_of = lru_cache(4096)(metas.time_of)
    telemetry._is_offered = True
    name = "tests.simulation.store.SimStore"
    backends._BY_CLASS[name] = _SimBackend("tests.simulation.store", name)
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore", RuntimeWarning)  # A coroutine of a killed process that never began.


_install()


def settled() -> None:
    """Call once everything is imported: what is there now is never looked at by the collector again."""
    gc.collect()
    gc.freeze()


# How the oracle looks into a store: as a process that starts now would, with a clock that is right.


def meta_value(raw: bytes) -> dict[str, Any] | None:
    """Return the stored mapping in the raw entry *raw*, or `None` where there is none."""
    try:
        return dict(read_body(raw).value)
    except UnreadableBodyError:
        return None


def root_of(meta: VaultMeta, secret: Secret, now: float) -> Any:
    """Return the root key that *secret* opens in *meta* at the wall time *now*, or `None`."""
    moment = dt.datetime.fromtimestamp(now, dt.timezone.utc)
    for slot in meta.slots:
        if slot.usable(moment):
            try:
                return slot.open(secret, meta.vault_id, memory_ceiling=_MEMORY_CEILING)
            except Exception:  # noqa: BLE001 - a wrong secret has a base class of its own
                continue
    return None


def keyring_of(meta: VaultMeta, root: Any) -> Keyring:
    return Keyring(meta, root)


def deks_of(keyring: Any) -> dict[int, bytes]:
    """Return the DEKs themselves, without those that are retired: two of one number may differ."""
    return {number: dek for number, dek in keyring._deks.items() if number not in keyring.retired}


def codec_of(keyring: Keyring) -> Any:
    return keyring.codecs[""]


def legacy_codecs_of(keyring: Keyring) -> Any:
    """Return the codecs that a wrapper reads old records with by the policy of *keyring*."""
    if not keyring.policy.read_legacy:
        return ()
    return codecs_for((key.kind, key.key) for key in keyring.legacy)


def header_of(value: dict[str, Any]) -> tuple[int, int | None]:
    """Return the DEK and the sealed expiry that a sealed record names; raises `RecordError`."""
    header = Header.parse(from_stored(value))
    return header.dek, header.expires_at


def vault_of(wrapper: EnvelopeEncryptionWrapper) -> Vault | None:
    return wrapper._vault


# What an attacker, or another vault, lays into the store.


def body_of(entry: Entry) -> bytes:
    """Return *entry* as its store keeps it."""
    assert entry.value is not None
    return _body(dict(entry.value), f"{entry.collection}::{entry.key}", entry.expires_at)


def _body(value: dict[str, Any], name: str, expires_at: Any = None) -> bytes:
    collection, _, key = name.partition("::")
    text = write_body(value, created_at=None, expires_at=expires_at, names=(collection, key))
    return text.encode()


def foreign_meta(secret: Secret) -> bytes:
    """Return the meta of another vault that the same secret opens."""
    draw = random.Random(secret.reveal()).randbytes
    moment = dt.datetime.fromtimestamp(int(EPOCH), dt.timezone.utc)
    root = RootKey.generate(draw(16), random=draw)
    slot = Keyslot.create(root, secret, CHEAP, label="primary", now=moment)
    return _body(changes.first(root, slot, Policy(), now=moment).as_value(), META)


def forged_meta(raw: bytes) -> tuple[bytes, bytes]:
    """Return the next revision of *raw* with a MAC that nobody made, and that MAC."""
    value = dict(read_body(raw).value)
    mac = bytes(range(32))
    value |= {"revision": value["revision"] + 1, "mac": b64encode(mac).decode()}
    value["policy"] = {**value["policy"], "read_plaintext": True}
    return _body(value, META), mac


def forged_checkpoint() -> dict[str, bytes]:
    """Return the checkpoint of a re-encryption that was nearly finished, written by nobody."""
    names = ("scanned", "changed", "already", "skipped", "failed", "conflicts")
    tally = dict.fromkeys(names, 0) | {"scanned": 5000, "already": 5000}
    head = {
        "run": "f",
        "plan": plan_id("reencrypt", "sim:", None, "kvseal"),
        "command": "reencrypt",
        "started_at": 0,
        "count": 1,
        "prepared": False,
        "splits": None,
        "surveyed": None,
        "done": False,
    }
    part = {
        "run": "f",
        "holder": None,
        "until": 0,
        "cursor": "default_collection::zz",
        "done": False,
        "marks": [],
        "tally": tally,
    }
    return {CHECKPOINT: _body(head, CHECKPOINT), FIRST_PART: _body(part, FIRST_PART)}


def foreign_record(name: str) -> bytes:
    return _body({"__encrypted_data__": "bm90aGluZw==", "__encryption_version__": 7}, name)


def tampered(raw: bytes, other: bytes, pick: int) -> bytes | None:
    """Return *raw* with a bit changed, another DEK, or the record of *other* in it."""
    body = read_body(raw)
    value = dict(read_body(other).value if pick % 3 == 0 else body.value)
    if not is_sealed(value):
        return None
    record = bytearray(from_stored(value))
    if pick % 3 == 1:
        record[-1 - pick % 20] ^= 1 << pick % 8
    elif pick % 3 == 2:
        record[7] ^= 1
    name = f"{body.collection}::{body.key}"
    return _body({**value, "__encrypted_data__": b64encode(bytes(record)).decode()}, name, body.expires_at)

"""What the logger `kvseal.audit` is told, and that it is told nothing else."""

from __future__ import annotations

import asyncio
import json
import logging
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.fernet import Fernet
from key_value.aio.wrappers.encryption.fernet import FernetEncryptionWrapper
from tests.fakes import HookedDriver, flipped
from tests.keys.made import CHEAP, OTHER_SECRET, SECRET
from tests.wrapping import wrapped

from kvseal import Vault, recode
from kvseal.drivers import driver_for
from kvseal.errors import (
    Conflict,
    DamagedSlotError,
    StoreUnreachableError,
    TamperedMetaError,
    WrongSecretError,
)
from kvseal.keys.keyring import LegacyKey
from kvseal.legacy.fernet import FernetCodec, parse_key
from kvseal.observe.audit import JSONFormatter
from kvseal.recoding import migrate, plan_reencryption

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from key_value.aio.stores.memory import MemoryStore

LABEL = "Ada's laptop"


class Trail(logging.Handler):
    """Keeps every record."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it."""
        self.records.append(record)

    @property
    def events(self) -> list[dict[str, Any]]:
        """The structured part of each record since `clear`."""
        return [record.kvseal for record in self.records]  # type: ignore[attr-defined]

    @property
    def names(self) -> list[str]:
        """The events, and the outcome of those that were no success."""
        return [
            one["event"] if one["outcome"] == "success" else f"{one['event']} {one['outcome']}"
            for one in self.events
        ]

    def clear(self) -> None:
        """Forget what was told so far."""
        self.records.clear()


@pytest.fixture
def trail() -> Iterator[Trail]:
    """Yield what listens to the audit logger."""
    logger, handler = logging.getLogger("kvseal.audit"), Trail()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler
    logger.setLevel(level)
    logger.removeHandler(handler)


@pytest.fixture
async def vault(store: MemoryStore, trail: Trail) -> Vault:
    """Return a new vault, whose creation is not in the trail."""
    vault = await Vault.create(store, secret=SECRET, kdf=CHEAP, label=LABEL)
    trail.clear()
    return vault


async def test_create(store: MemoryStore, trail: Trail) -> None:
    """A new vault is told with its id and its first slot."""
    vault = await Vault.create(store, secret=SECRET, kdf=CHEAP)

    (slot,) = vault.meta.slots
    assert [
        {
            "schema": 1,
            "event": "vault.create",
            "outcome": "success",
            "vault_id": vault.status().vault_id,
            "slot_id": slot.id,
            "slot_kind": "argon2id",
            "revision": 1,
        }
    ] == trail.events


async def test_unlock(store: MemoryStore, vault: Vault, trail: Trail) -> None:
    """Every opening is told, with the slot; from the cache too."""
    await vault.rotate_dek()
    trail.clear()
    await Vault.open(store, secret=SECRET)

    await Vault.open(store, secret=SECRET)

    unlock = {
        "schema": 1,
        "event": "vault.unlock",
        "outcome": "success",
        "vault_id": vault.status().vault_id,
        "slot_id": vault.meta.slots[0].id,
        "slot_kind": "argon2id",
        "revision": 2,
    }
    assert [unlock, unlock] == trail.events
    assert {logging.INFO} == {record.levelno for record in trail.records}


async def test_wrong_secret(store: MemoryStore, vault: Vault, trail: Trail) -> None:
    """A secret that opens nothing is a warning, with its cause and the vault."""
    with pytest.raises(WrongSecretError):
        await Vault.open(store, secret=OTHER_SECRET)

    assert [
        {
            "schema": 1,
            "event": "vault.unlock",
            "outcome": "failure",
            "vault_id": vault.status().vault_id,
            "error": "WrongSecretError",
        }
    ] == trail.events
    assert [logging.WARNING] == [record.levelno for record in trail.records]


@pytest.mark.parametrize(
    ("path", "error"),
    [(("slots", 0, "wrapped"), DamagedSlotError), (("mac",), TamperedMetaError)],
    ids=["slot", "mac"],
)
async def test_damage(
    store: MemoryStore, vault: Vault, trail: Trail, path: tuple[str | int, ...], error: type[Exception]
) -> None:
    """A vault meta that was changed is told as what keeps the vault from opening."""
    await flipped(store, *path)

    with pytest.raises(error):
        await Vault.open(store, secret=SECRET)

    assert [("vault.unlock", error.__name__, vault.meta.vault_id.hex())] == [
        (one["event"], one["error"], one["vault_id"]) for one in trail.events
    ]


async def test_lock(vault: Vault, trail: Trail) -> None:
    """A vault that forgets its keys says so once."""
    await vault.lock()
    await vault.close()

    assert ["vault.lock"] == trail.names


async def test_slots(vault: Vault, trail: Trail) -> None:
    """Slots that are added, made to last and removed are told by their id."""
    slot = await vault.slots.add(OTHER_SECRET, label="spare", kdf=CHEAP, expires_in=timedelta(days=1))
    await vault.slots.keep("spare")
    await vault.slots.remove("spare")

    assert ["slot.add", "slot.keep", "slot.remove"] == trail.names
    assert {slot.id} == {one["slot_id"] for one in trail.events}
    assert [slot.expires_at, None, None] == [one.get("expires_at") for one in trail.events]
    assert [2, 3, 4] == [one["revision"] for one in trail.events]


async def test_a_slot_that_has_expired(vault: Vault, trail: Trail, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change drops the slots that have expired, and that is told too."""
    await vault.slots.add(OTHER_SECRET, label="spare", kdf=CHEAP, expires_in=timedelta(days=1))
    trail.clear()
    monkeypatch.setattr(
        "kvseal.clock.utc_seconds",
        lambda: datetime.now(timezone.utc).replace(microsecond=0) + timedelta(days=2),
    )
    await vault.rotate_dek()

    assert ["slot.remove", "dek.add"] == trail.names


async def test_a_dry_run_tells_nothing(vault: Vault, trail: Trail) -> None:
    """What is not written is not told."""
    await vault.slots.add(OTHER_SECRET, label="spare", kdf=CHEAP, dry_run=True)

    assert [] == trail.names


async def test_rotation(vault: Vault, trail: Trail) -> None:
    """A rotation is told as the two changes that it consists of, and as a whole."""
    (old,) = vault.meta.slots
    await vault.rotate(new_secret=OTHER_SECRET)

    (new,) = vault.meta.slots
    assert ["slot.add", "slot.remove", "secret.rotate"] == trail.names
    assert (old.id, new.id) == (trail.events[-1]["old_slot_id"], trail.events[-1]["slot_id"])


async def test_rotation_that_keeps_the_old_secret(vault: Vault, trail: Trail) -> None:
    """A slot that is to expire is told with its end."""
    await vault.rotate(new_secret=OTHER_SECRET, keep_old_for=timedelta(hours=1))

    assert ["slot.add", "slot.expire", "secret.rotate"] == trail.names
    assert trail.events[1]["expires_at"]


async def test_deks(vault: Vault, trail: Trail) -> None:
    """A new DEK, a retired one and one that is dropped are told by number."""
    await vault.rotate_dek()
    await vault.retire_dek(1)
    await vault.drop_dek(1)

    expected = [("dek.add", 2), ("dek.retire", 1), ("dek.drop", 1)]
    assert expected == [(one["event"], one["dek"]) for one in trail.events]


async def test_root_rotation(vault: Vault, trail: Trail) -> None:
    """A new root key is told before the slots that wrap it."""
    await vault.rotate_root()

    assert ["root.rotate", "slot.add", "slot.remove"] == trail.names


async def test_legacy_keys(vault: Vault, trail: Trail) -> None:
    """Legacy keys are told by id as they come and go, and so is the policy that reads with them."""
    await vault.read_legacy_with([LegacyKey("fernet", b"k" * 32)])
    await vault.end_legacy_reads()
    await vault.resume_legacy_reads()
    status = await vault.end_legacy_reads()
    await vault.drop_legacy_keys({held.id for held in status.legacy})

    keys = [one for one in trail.events if one["event"].startswith("legacy_key")]
    policies = [one for one in trail.events if one["event"] == "policy.change"]
    names = [one["event"].removeprefix("legacy_key.") for one in keys]
    assert ["import", "end", "resume", "end", "drop"] == names
    assert 1 == len({one["legacy_key_id"] for one in keys})
    assert {"fernet"} == {one["legacy_key_kind"] for one in keys}
    assert [(False, True), (True, False)] * 2 == [
        (one["before"]["read_legacy"], one["after"]["read_legacy"]) for one in policies
    ]


async def test_conflict(store: MemoryStore, vault: Vault, trail: Trail) -> None:
    """A change that somebody else was faster with is told as one that failed."""
    other = await Vault.open(store, secret=SECRET)

    async def faster(name: str, operation: Callable[[], Awaitable[Any]]) -> Any:
        if name == "replace_many" and other.meta.revision == 1:
            await other.rotate_dek()
        return await operation()

    slower = await Vault.open(store, secret=SECRET, meta_store=HookedDriver(driver_for(store), faster))
    trail.clear()
    with pytest.raises(Conflict):
        await slower.rotate_dek()

    assert ["dek.add", "dek.add failure"] == trail.names
    assert "Conflict" == trail.events[1]["error"]


@pytest.mark.parametrize("written", [False, True])
async def test_a_lost_answer(store: MemoryStore, vault: Vault, trail: Trail, *, written: bool) -> None:
    """Where the answer to the write is lost, nobody knows whether it was done, and that is what is told."""

    async def lossy(name: str, operation: Callable[[], Awaitable[Any]]) -> Any:
        if name == "replace_many":
            if written:
                await operation()
            msg = "connection reset"
            raise StoreUnreachableError(msg)
        return await operation()

    cut = await Vault.open(store, secret=SECRET, meta_store=HookedDriver(driver_for(store), lossy))
    trail.clear()
    with pytest.raises(StoreUnreachableError):
        await cut.rotate_dek()

    assert ["dek.add unknown"] == trail.names
    assert ["StoreUnreachableError"] == [one["error"] for one in trail.events]


async def test_recode(store: MemoryStore, vault: Vault, trail: Trail) -> None:
    """A recode is told when it begins and when it ends, with counts and a number that both share."""
    await wrapped(vault).put("k", {"v": 1})
    await vault.rotate_dek()
    trail.clear()
    await recode(store, plan_reencryption(vault))

    start, end = trail.events
    assert ["recode.start", "recode.end"] == trail.names
    assert start["run"] == end["run"]
    assert ("reencrypt", "0/1", False) == (start["command"], start["partition"], start["dry_run"])
    assert (1, 1, 0, 0) == (end["scanned"], end["changed"], end["already"], end["failed"])


async def test_a_recode_that_is_stopped(store: MemoryStore, vault: Vault, trail: Trail) -> None:
    """A recode that is cancelled is told with its end."""

    async def stop(name: str, operation: Callable[[], Awaitable[Any]]) -> Any:
        if name == "scan":
            raise asyncio.CancelledError
        return await operation()

    with pytest.raises(asyncio.CancelledError):
        await recode(HookedDriver(driver_for(store), stop), plan_reencryption(vault))

    assert ["recode.start", "recode.end failure"] == trail.names
    assert "CancelledError" == trail.events[1]["error"]


async def test_a_migration(store: MemoryStore, trail: Trail) -> None:
    """A migration leaves the whole story: a vault, a recode, and the end of legacy reads."""
    key = Fernet.generate_key()
    await FernetEncryptionWrapper(store, fernet=Fernet(key)).put("k", {"v": 1})
    codec = FernetCodec([parse_key(key)])
    await migrate(store, [codec], secret=SECRET, kdf=CHEAP)

    assert ["vault.create", "recode.start", "recode.end", "vault.lock"] == trail.names


async def test_nothing_secret(store: MemoryStore, trail: Trail) -> None:
    """No secret, key, label, place or name of a record is in any record, structured or not."""
    vault = await Vault.create(store, secret=SECRET, kdf=CHEAP, label=LABEL)
    await wrapped(vault).put("user-of-a-kind", {"v": "value-of-a-kind"}, collection="sessions-of-a-kind")
    await vault.read_legacy_with([LegacyKey("fernet", b"legacy-key-of-a-kind-of-32-bytes")])
    await vault.rotate(new_secret=OTHER_SECRET)
    await vault.rotate_dek()
    await recode(store, plan_reencryption(vault))
    with pytest.raises(WrongSecretError):
        await Vault.open(store, secret=SECRET)
    await vault.close()

    told = "".join(f"{record.getMessage()}{record.__dict__}" for record in trail.records)
    for word in (
        "correct horse",
        "battery staple",
        "Ada",
        "of-a-kind",
        "memory:",
        "wrapped",
        "salt",
    ):
        assert word not in told


def test_json_lines(trail: Trail) -> None:
    """The formatter writes one JSON object a line, of other loggers' records too."""
    formatter = JSONFormatter()
    mine = logging.makeLogRecord({"name": "kvseal.audit", "levelname": "INFO", "created": 0.5})
    mine.kvseal = {"schema": 1, "event": "dek.add"}
    other = logging.makeLogRecord({"name": "kvseal", "levelname": "WARNING", "created": 1, "msg": "a\nb"})

    assert [
        {
            "time": "1970-01-01T00:00:00.500+00:00",
            "level": "INFO",
            "logger": "kvseal.audit",
            "schema": 1,
            "event": "dek.add",
        },
        {"time": "1970-01-01T00:00:01.000+00:00", "level": "WARNING", "logger": "kvseal", "message": "a\nb"},
    ] == [json.loads(formatter.format(record)) for record in (mine, other)]
    assert "\n" not in formatter.format(other)


async def test_messages_are_for_people(vault: Vault, trail: Trail) -> None:
    """The message of a record says what happened and to which vault."""
    await vault.rotate_dek()

    (record,) = trail.records
    assert f"dek.add: success (vault_id {vault.status().vault_id}, dek 2, revision 2)" == record.getMessage()


async def test_silent_by_default(
    store: MemoryStore, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nobody has set logging up, nothing comes out on stderr."""
    await Vault.create(store, secret=SECRET, kdf=CHEAP)
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    with pytest.raises(WrongSecretError):
        await Vault.open(store, secret=OTHER_SECRET)

    assert "" == capfd.readouterr().err

"""What the commands of the crash table leave, beside the slots."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.crash.beginnings import DAMAGED, LEGACY, RECORDS, Names
from tests.crash.runs import PRINTED
from tests.legacy.test_authsome import DEK, FLAT_KEY
from tests.recoding.worlds import adds_up, failed, formats_of

from kvseal import Secret, Vault
from kvseal.backup.file import BackupReader, open_file
from kvseal.legacy import AUTHSOME, AUTHSOME_FLAT
from kvseal.recoding import verify

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from kvseal.drivers.base import Driver, Entry


@dataclass
class World:
    """A store as a command finds it and leaves it, and a directory for what lies beside."""

    store: Any
    driver: Driver
    directory: Path
    original: Mapping[Names, Entry] = field(default_factory=dict)
    """What lay in the store at first."""
    meta: Entry | None = None
    """The vault meta at first."""
    result: Any = None
    """What the last run through the library has returned."""


async def no_more(_: Vault, __: World) -> None:
    """There is nothing to check beside the slots."""


async def costs_more(vault: Vault, _: World) -> None:
    """The slot that opens has the new cost."""
    assert [2] == [slot.t for slot in vault.status().slots if slot.opened]


async def has_another_root(vault: Vault, world: World) -> None:
    """No slot is as it was, and so no root key that a slot has given opens the vault any more."""
    assert world.meta is not None
    assert world.meta.value is not None
    before = {slot["id"] for slot in world.meta.value["slots"]}
    assert not before & {slot.id for slot in vault.status().slots}


async def has_another_dek(vault: Vault, _: World) -> None:
    """A DEK was added, or several by those who did not know that one had been."""
    assert vault.status().active_dek >= 3


async def has_one_dek(vault: Vault, world: World) -> None:
    """Every record is under the active DEK."""
    report = await verify(world.store, vault)
    assert ({2: len(RECORDS)}, 0) == (report.deks, report.failed)


async def has_retired(vault: Vault, world: World) -> None:
    """DEK 1 is dropped, and nothing needs it."""
    assert [("retired", True), ("active", False)] == [(dek.state, dek.dropped) for dek in vault.status().deks]
    await has_one_dek(vault, world)


async def keeps_the_dek(vault: Vault, world: World) -> None:
    """DEK 1 is retired and kept, and nothing needs it."""
    assert [("retired", False), ("active", False)] == [
        (dek.state, dek.dropped) for dek in vault.status().deks
    ]
    await has_one_dek(vault, world)


async def reads_legacy(vault: Vault, _: World) -> None:
    """The old key is held once."""
    assert [LEGACY] == list(vault.keyring.legacy)
    assert vault.keyring.policy.read_legacy


async def reads_sealed_alone(vault: Vault, world: World) -> None:
    """Every record is sealed, and no old key is held."""
    assert [] == list(vault.keyring.legacy)
    assert not vault.keyring.policy.read_legacy
    assert {2} == await formats_of(world.store)


async def is_migrated(vault: Vault, world: World) -> None:
    """All but the damaged record is sealed, that is as it was, and a report counts each record once."""
    there = await world.driver.get(*DAMAGED)
    assert there is not None
    assert world.original[DAMAGED].value == there.value
    counted = await verify(world.store, vault)
    assert {"kvseal": len(RECORDS), "fernet": 1} == counted.formats
    report = world.result
    if report is not None:
        assert adds_up(report)
        assert ["damaged"] == failed(report)
        assert (len(RECORDS) + 1, len(RECORDS), 1) == (
            report.scanned,
            report.changed + report.already,
            report.failed,
        )


async def is_migrated_after_a_backup(vault: Vault, world: World) -> None:
    """Everything is sealed, and one whole backup has every record as the old application wrote it."""
    await reads_sealed_alone(vault, world)
    originals = {names: entry.value for names, entry in world.original.items()}
    kept = []
    for path in world.directory.glob("*.kvseal"):
        with open_file(path) as file:
            entries = [entry for batch in BackupReader(file).batches() for entry in batch]
            kept.append({(entry.collection, entry.key): entry.value for entry in entries})
    assert originals in kept


async def has_adopted(vault: Vault, _: World) -> None:
    """The vault holds authsome's keys."""
    assert [(AUTHSOME, DEK), (AUTHSOME_FLAT, FLAT_KEY)] == [(k.kind, k.key) for k in vault.keyring.legacy]


async def is_migrated_from_authsome(vault: Vault, world: World) -> None:
    """The records are sealed, and what authsome does not encrypt is as it was."""
    await has_adopted(vault, world)
    assert {"data": "1"} == await world.store.get("version", collection="config")
    assert {"kvseal": 2, "plaintext": 1} == (await verify(world.store, vault)).formats


async def has_the_printed_key(vault: Vault, world: World) -> None:
    """The recovery key that was printed last opens the slot."""
    *_, key = re.findall(r"KVSEALR1-\S+", (world.directory / PRINTED).read_text())
    assert "recovery" == (await vault.slots.verify(Secret(key.encode()))).label

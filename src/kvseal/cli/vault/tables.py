"""The tables that show a vault to a person: facts, keyslots, DEKs, policy, records."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from kvseal.cli.output import Table
from kvseal.keys.policy import DEFAULT_MAX_DEK_AGE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kvseal.recoding.census import Census
    from kvseal.vault.status import DEKStatus, ExtensionStatus, SlotStatus, VaultStatus

_DAY: Final = 86_400


def tables_of(now: VaultStatus) -> list[Table]:
    """Show the vault: facts, slots, DEKs and legacy keys."""
    facts = [
        ("vault", now.vault_id),
        ("store", now.location),
        ("revision", now.revision),
        ("updated", now.updated_at),
        *rows_of(now.policy),
    ]
    tables = [
        Table("", ("", ""), facts),
        slots_table(now.slots),
        Table("DEKs", ("number", "state", "created"), [(d.id, state_of(d), d.created_at) for d in now.deks]),
    ]
    if now.legacy:
        rows = [(key.id, key.kind, key.created_at, key.ended_at or "") for key in now.legacy]
        tables.append(Table("Legacy keys", ("id", "kind", "held since", "reads ended"), rows))
    if now.extensions:
        parts = [(part.name, _meaning(part)) for part in now.extensions]
        tables.append(Table("Extensions", ("name", "this vaultctl"), parts))
    return tables


def state_of(dek: DEKStatus) -> str:
    """Show the state of a DEK; a retired one is dropped, or kept for a while."""
    return f"{dek.state}, kept" if dek.state == "retired" and not dek.dropped else dek.state


def _meaning(part: ExtensionStatus) -> str:
    if part.known:
        return "knows it"
    return "must not seal or change anything" if part.critical else "keeps it"


def count_table(census: Census) -> Table:
    """Show how many records each format and each DEK has."""
    rows = [*sorted(census.formats.items()), *((f"DEK {n}", c) for n, c in sorted(census.deks.items()))]
    return Table("Records", ("format or DEK", "records"), [(name, f"{count:,}") for name, count in rows])


def slots_table(slots: Sequence[SlotStatus], *, title: str = "Keyslots") -> Table:
    """Show keyslots, and when this process opened one."""
    rows = [
        (
            slot.id,
            slot.label,
            _kind(slot),
            slot.created_at,
            slot.expires_at,
            slot.opened_at,
        )
        for slot in slots
    ]
    return Table(title, ("id", "label", "kind", "created", "expires", "opened now"), rows)


def _kind(slot: SlotStatus) -> str:
    cost = f"t={slot.t} m={slot.m} KiB p={slot.p}"
    return f"{slot.kind} {cost if slot.key is None else slot.key}"


def rows_of(policy: dict[str, Any]) -> list[tuple[str, object]]:
    """Show each part of a policy, as a person reads it."""
    age, records = policy.get("max_dek_age"), policy.get("max_dek_records")
    return [
        *((name.replace("_", " "), policy[name]) for name in ("read_legacy", "read_plaintext", "binding")),
        *([("names inside", "of every record")] if policy.get("names_inside") else []),
        *_writes(policy.get("write")),
        ("max dek age", f"{_duration(DEFAULT_MAX_DEK_AGE)} (default)" if age is None else _duration(age)),
        ("max dek records", "none" if records is None else f"{records:,}"),
    ]


def _writes(write: dict[str, Any] | None) -> list[tuple[str, object]]:
    """Show what new values are written as; nothing where no old format was ever held."""
    if write is None:
        return []
    key = f", under the held key {write['key']}" if "key" in write else ""
    return [("new values", f"{write['as']} since {write['since']}{key}")]


def _duration(seconds: int) -> str:
    return f"{seconds}s" if seconds % _DAY else f"{seconds // _DAY}d"

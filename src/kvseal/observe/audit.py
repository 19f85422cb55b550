"""
The audit trail of unlocks and changes: structured records on the logger `kvseal.audit`.

Each record has an attribute `kvseal`, a flat dict of schema 1, and a message for operators:

* `schema`, `event`, `outcome` (`success`, `failure`, `unknown`), `vault_id` (or `None`), and if the
  outcome is not `success`, `error`, the class of the exception
* `vault.create`, `vault.unlock`, `vault.lock`: `revision`; `slot_id` and `slot_kind` of the slot used
* `vault.refute`: `revision`, of the meta that the store has lost, or holds another one instead of
* `slot.add`, `slot.remove`, `slot.keep`, `slot.expire`: `slot_id`, `slot_kind`, `expires_at`, `revision`
* `dek.add`, `dek.retire`, `dek.drop`: `dek`, `revision`
* `legacy_key.import`, `legacy_key.end`, `legacy_key.resume`, `legacy_key.drop`: `legacy_key_id`,
  `legacy_key_kind`, `revision`
* `policy.change`: `before`, `after`, `revision`; `root.rotate`: `revision`
* `secret.rotate`: `slot_id` and `old_slot_id`, after the changes of slots that it consists of
* `recode.start`, `recode.end`: `run`, the same in both, `command`, `partition`, `dry_run`; at the
  end `scanned`, `changed`, `already`, `skipped`, `failed`, `conflicts`, `pending`, `seconds`

A change is logged after it was read back.  A failed change was not written.  An unknown one may have
been written, because the store's answer was lost.  No record contains a secret, key, URL, label or name
of a record.  A success has the level INFO, everything else WARNING.  kvseal sets no handler and no level.
"""

from __future__ import annotations

import json
import logging
import os
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Final, Literal

from kvseal.errors import Conflict, VaultExistsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    Stored = Mapping[str, Any]
    Fields = dict[str, Any]

Outcome = Literal["success", "failure", "unknown"]

SCHEMA: Final = 1
LOGGER: Final = logging.getLogger("kvseal.audit")
# Without it, Python would print a failed unlock to stderr if the application has not set up logging.
LOGGER.addHandler(logging.NullHandler())

_UNCHANGED: Final = (Conflict, VaultExistsError)
"""The errors of a write that was not done."""
_IN_FRONT: Final = frozenset({"schema", "event", "outcome"})
_COUNTS: Final = ("scanned", "changed", "already", "skipped", "failed", "conflicts", "pending", "seconds")


class JSONFormatter(logging.Formatter):
    """Formats one JSON object per line, with `time`, `level` and `logger`; other records with `message`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line = {
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
        }
        return json.dumps({**line, **getattr(record, "kvseal", {"message": record.getMessage()})})


def unlocked(vault_id: str, revision: int, *, slot_id: str, slot_kind: str) -> None:
    """Log that a slot has opened its vault, by a derivation or from memory."""
    _tell("vault.unlock", vault_id, slot_id=slot_id, slot_kind=slot_kind, revision=revision)


def unlock_failed(error: BaseException, vault_id: str | None) -> None:
    """Log that unlocking ended with *error*; *vault_id* is `None` if no meta was read."""
    _tell("vault.unlock", vault_id, error=error)


def refuted(vault_id: str, revision: int, error: BaseException) -> None:
    """Record that by *error* the store holds another vault meta than this process goes by."""
    _tell("vault.refute", vault_id, error=error, revision=revision)


def locked(vault_id: str, revision: int) -> None:
    """Log that a process has forgotten its keys."""
    _tell("vault.lock", vault_id, revision=revision)


def rotated(vault_id: str, old_slot_id: str, slot_id: str) -> None:
    """Log that the slot *slot_id* has replaced another one."""
    _tell("secret.rotate", vault_id, slot_id=slot_id, old_slot_id=old_slot_id)


@contextmanager
def creation(meta: Stored) -> Iterator[None]:
    """Log the outcome of the block, which writes the first *meta* of a vault."""
    adopted = [("legacy_key.import", _legacy_key(key)) for key in meta["legacy"]]
    with _told(meta, [("vault.create", _slot(meta["slots"][0])), *adopted]):
        yield


@contextmanager
def change(before: Stored, after: Stored) -> Iterator[None]:
    """Log the outcome of the block, which replaces the meta *before* with *after*."""
    with _told(after, list(_differences(before, after))):
        yield


@contextmanager
def recode(vault_id: str | None, **fields: Any) -> Iterator[Callable[[Stored], None]]:
    """Log the start and the end of the block, which passes its report with the counts."""
    run, counts = os.urandom(8).hex(), dict[str, Any]()

    def ended(report: Stored) -> None:
        counts.update({name: report[name] for name in _COUNTS if name in report})

    _tell("recode.start", vault_id, run=run, **fields)
    try:
        yield ended
    except BaseException as exc:
        _tell("recode.end", vault_id, error=exc, run=run, **fields)
        raise
    _tell("recode.end", vault_id, run=run, **fields, **counts)


@contextmanager
def _told(meta: Stored, events: list[tuple[str, Fields]]) -> Iterator[None]:
    error: BaseException | None = None
    try:
        yield
    except BaseException as exc:
        error = exc
        raise
    finally:
        outcome: Outcome = "failure" if isinstance(error, _UNCHANGED) else "unknown"
        for event, fields in events:
            _tell(event, meta["vault_id"], error=error, outcome=outcome, **fields, revision=meta["revision"])


def _differences(before: Stored, after: Stored) -> Iterator[tuple[str, Fields]]:
    """Return the changes from one meta to the other, as events."""
    if before.get("handover") != after.get("handover"):
        yield "root.rotate", {}
    old, new = _by_id(before["slots"]), _by_id(after["slots"])
    for slot_id, slot in new.items():
        if slot_id not in old:
            yield "slot.add", _slot(slot)
        elif slot.get("expires_at") != old[slot_id].get("expires_at"):
            yield "slot.expire" if slot.get("expires_at") else "slot.keep", _slot(slot)
    yield from (("slot.remove", _slot(slot)) for slot_id, slot in old.items() if slot_id not in new)
    deks = {dek["number"]: dek for dek in before["deks"]}
    for dek in after["deks"]:
        yield from ((event, {"dek": dek["number"]}) for event in _of_dek(deks.get(dek["number"]), dek))
    held, holds = _by_id(before["legacy"]), _by_id(after["legacy"])
    for key_id, key in holds.items():
        yield from ((event, _legacy_key(key)) for event in _of_legacy_key(held.get(key_id), key))
    yield from (("legacy_key.drop", _legacy_key(key)) for key_id, key in held.items() if key_id not in holds)
    if before["policy"] != after["policy"]:
        yield "policy.change", {"before": dict(before["policy"]), "after": dict(after["policy"])}


def _of_dek(before: Stored | None, after: Stored) -> Iterator[str]:
    if before is None:
        yield "dek.add"
        return
    if after["state"] == "retired" != before["state"]:
        yield "dek.retire"
    if "wrapped" in before and "wrapped" not in after:
        yield "dek.drop"


def _of_legacy_key(before: Stored | None, after: Stored) -> Iterator[str]:
    if before is None:
        yield "legacy_key.import"
    elif ("ended_at" in before) != ("ended_at" in after):
        yield "legacy_key.end" if "ended_at" in after else "legacy_key.resume"


def _by_id(things: Any) -> dict[str, Any]:
    return {thing["id"]: thing for thing in things}


def _slot(slot: Stored) -> Fields:
    ends = {"expires_at": slot["expires_at"]} if "expires_at" in slot else {}
    return {"slot_id": slot["id"], "slot_kind": slot["kind"], **ends}


def _legacy_key(key: Stored) -> Fields:
    return {"legacy_key_id": key["id"], "legacy_key_kind": key["kind"]}


def _tell(
    event: str,
    vault_id: str | None,
    *,
    error: BaseException | None = None,
    outcome: Outcome = "failure",
    **fields: Any,
) -> None:
    told: Fields = {"schema": SCHEMA, "event": event, "outcome": outcome, "vault_id": vault_id, **fields}
    if error is None:
        told["outcome"] = "success"
    else:
        told["error"] = type(error).__name__
    level = logging.INFO if error is None else logging.WARNING
    if LOGGER.isEnabledFor(level):
        details = ", ".join(f"{name} {value}" for name, value in told.items() if name not in _IN_FRONT)
        message = f"{event}: {told['outcome']}" + (f" ({details})" if details else "")
        LOGGER.log(level, "%s", message, extra={"kvseal": told})

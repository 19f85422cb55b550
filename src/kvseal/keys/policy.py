"""What a vault reads and writes, how records are bound, when a DEK is due: covered by the MAC of the meta."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

from kvseal.envelope.record import Binding
from kvseal.keys.stamps import time_of, time_text

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet
    from datetime import datetime

_BINDINGS: Final = {
    "collection+key": Binding.COLLECTION_AND_KEY,
    "collection": Binding.COLLECTION,
    "none": Binding.NONE,
}
_BINDING_NAMES: Final = {binding: name for name, binding in _BINDINGS.items()}

DEFAULT_MAX_DEK_AGE: Final = 365 * 86_400
"""Seconds; the default of a policy without a limit of its own."""
LONGEST_DEK_AGE: Final = 100 * 365 * 86_400
MOST_DEK_RECORDS: Final = 2**53 - 1
"""The greatest integer that every JSON parser reads exactly."""


Hold = Literal["fernet", "plaintext"]
"""The old formats that a process can write."""

WriteForm = Literal["sealed", "legacy", "plaintext"]
SEALED: Final = "sealed"
LEGACY: Final = "legacy"
PLAINTEXT: Final = "plaintext"


@dataclass(frozen=True, slots=True)
class WritePolicy:
    """
    What new values are written as, *since* when by the store's time; *key* is the id of the held legacy key.

    Raises:
        ValueError: *form* is unknown, or a *key* is there without need, or missing.
    """

    form: WriteForm
    since: datetime
    key: str | None = None

    def __post_init__(self) -> None:
        if self.form not in get_args(WriteForm) or (self.key is None) == (self.form == LEGACY):
            msg = "not a write policy of this version"
            raise ValueError(msg)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> WritePolicy:
        """Read what `as_json` wrote; raises `KeyError`, `TypeError` or `ValueError` for anything else."""
        return cls(value["as"], time_of(value["since"]), value.get("key"))

    def as_json(self) -> dict[str, Any]:
        """Return the write policy as the vault meta stores it."""
        key = {} if self.key is None else {"key": self.key}
        return {"as": self.form, **key, "since": time_text(self.since)}


@dataclass(frozen=True, slots=True)
class Policy:
    """
    The default is strict: a vault reads only records that were sealed for the name asked for.

    `read_legacy` and `read_plaintext` are set for the time of a migration.  `binding` is what new
    records are bound to, and the weakest binding that is accepted.  Without `write` new values are always
    sealed; it is there once an old format was held, so that old and new releases could read everything.

    With `names_inside` every record carries its names, and not only on stores that lose them.

    `max_dek_age`, in seconds, and `max_dek_records` are soft limits: once the active DEK is older, or
    has sealed more records, kvseal asks for a rotation and refuses nothing.

    Raises:
        ValueError, TypeError: a limit is not an integer, or out of bounds; or a name is not bound, with
            `names_inside`.
    """

    read_legacy: bool = False
    read_plaintext: bool = False
    binding: Binding = Binding.COLLECTION_AND_KEY
    max_dek_age: int | None = None
    max_dek_records: int | None = None
    write: WritePolicy | None = None
    names_inside: bool = False

    def __post_init__(self) -> None:
        if self.names_inside and self.binding != Binding.COLLECTION_AND_KEY:
            msg = "names are inside only of records that are bound to both"
            raise ValueError(msg)
        _check("max_dek_age", self.max_dek_age, LONGEST_DEK_AGE)
        _check("max_dek_records", self.max_dek_records, MOST_DEK_RECORDS)

    @property
    def holds(self) -> bool:
        """Whether new values are written in an old format."""
        return self.write is not None and self.write.form != SEALED

    @property
    def has_window(self) -> bool:
        """Whether old formats are read or written."""
        return self.read_legacy or self.read_plaintext or self.holds

    def can_hold(self, legacy: AbstractSet[str]) -> bool:
        """Whether what is held can be read back, too, where the vault has the *legacy* keys of these ids."""
        if self.write is None or self.write.form == SEALED:
            return True
        if self.write.form == PLAINTEXT:
            return self.read_plaintext
        return self.read_legacy and self.write.key in legacy

    @property
    def dek_age_limit(self) -> int:
        """The age in seconds at which a rotation of the DEK is due."""
        return self.max_dek_age or DEFAULT_MAX_DEK_AGE

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Policy:
        """Read what `as_json` wrote; raises `KeyError`, `TypeError` or `ValueError` for anything else."""
        read_legacy, read_plaintext = value["read_legacy"], value["read_plaintext"]
        if type(read_legacy) is not bool or type(read_plaintext) is not bool:
            msg = "a policy switch is true or false"
            raise TypeError(msg)
        return cls(
            read_legacy,
            read_plaintext,
            _BINDINGS[value["binding"]],
            value.get("max_dek_age"),
            value.get("max_dek_records"),
            WritePolicy.from_json(value["write"]) if "write" in value else None,
            _only_true(value, "names_inside"),
        )

    def as_json(self) -> dict[str, Any]:
        """Return the policy as the vault meta stores it; a limit that is not set is absent."""
        limits = {"max_dek_age": self.max_dek_age, "max_dek_records": self.max_dek_records}
        return {
            "read_legacy": self.read_legacy,
            "read_plaintext": self.read_plaintext,
            "binding": _BINDING_NAMES[self.binding],
            **{name: limit for name, limit in limits.items() if limit is not None},
            **({"names_inside": True} if self.names_inside else {}),
            **({} if self.write is None else {"write": self.write.as_json()}),
        }


def _only_true(value: dict[str, Any], name: str) -> bool:
    """Return whether *name* is there; what is not set is absent, so that a policy has one form."""
    if value.get(name, True) is not True:
        msg = f"{name} is true or absent"
        raise ValueError(msg)
    return name in value


def whole_seconds(age: timedelta) -> int:
    """Return *age* in whole seconds, or raise `ValueError`."""
    if age % timedelta(seconds=1):
        msg = f"max_dek_age is a whole number of seconds, not {age}"
        raise ValueError(msg)
    return age // timedelta(seconds=1)


def _check(name: str, limit: int | None, most: int) -> None:
    if limit is None:
        return
    if type(limit) is not int:
        msg = f"{name} is a whole number"
        raise TypeError(msg)
    if not 1 <= limit <= most:
        msg = f"{name} is between 1 and {most:,}, not {limit:,}"
        raise ValueError(msg)

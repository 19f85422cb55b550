"""What vaultctl exits with, and what each code means to a script."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Self


class ExitCode(IntEnum):
    """An exit code of vaultctl; a code that is not one of these means that the command has failed."""

    meaning: str

    def __new__(cls, code: int, meaning: str) -> Self:
        """Attach the meaning to the code."""
        self = int.__new__(cls, code)
        self._value_ = code
        self.meaning = meaning
        return self

    OK = 0, "ok"
    FAILED = 1, "failed"
    USAGE = 2, "usage: something in the command, the environment or a file has to be changed first"
    SOME_FAILED = 3, "finished, but some records failed; each is named"
    WORK_PENDING = 4, "work is pending: --check has found it, or other writers made it meanwhile"
    UNREACHABLE = 10, "store, vault or key service absent or unreachable"
    LEASE_HELD = 11, "another run holds the lease"
    NO_KEYSLOT_OPENS = 12, "no keyslot opens with this secret, or the key service refuses"
    INTERRUPTED = 130, "interrupted; run the same command again to resume"

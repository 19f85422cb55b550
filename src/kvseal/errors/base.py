"""The superclass of every kvseal error."""

from __future__ import annotations

from typing import ClassVar

from key_value.aio.errors import BaseKeyValueError

from kvseal.errors.exit_codes import ExitCode


class KvsealError(BaseKeyValueError):
    """
    Superclass of every kvseal error.  Never raised directly.

    `hint` is the next step in one sentence, or empty.
    """

    exit_code: ClassVar[int] = ExitCode.FAILED
    hint: str

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint

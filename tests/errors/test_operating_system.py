"""What an error of the operating system says: never nothing, and what to do about it."""

from __future__ import annotations

import errno

import pytest

from kvseal.errors.operating_system import next_step, reason_of


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/a"), "No space left on device"),
        (OSError("only text"), "only text"),
        (OSError(), "OSError"),
        (TimeoutError(), "TimeoutError"),
        (ValueError(""), "ValueError"),
        (ValueError("embedded null byte"), "embedded null byte"),
    ],
    ids=repr,
)
def test_reason(error: BaseException, reason: str) -> None:
    """The text of the system, or else the error's own, or else its name."""
    assert reason == reason_of(error)


@pytest.mark.parametrize(
    ("number", "named"),
    [
        (errno.ENOSPC, "free space"),
        (errno.EDQUOT, "quota"),
        (errno.EFBIG, "ulimit -f"),
        (errno.EROFS, "read-only"),
    ],
)
def test_next_step(number: int, named: str) -> None:
    """What is full, limited or read-only is named with its remedy."""
    assert named in next_step(OSError(number, "text"))


def test_no_number() -> None:
    """An error without a number has the step that its caller gives."""
    assert "default" == next_step(OSError(), "default") == next_step(ValueError(), "default")

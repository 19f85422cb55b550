"""The boundary to a codec that a developer has written."""

from __future__ import annotations

import traceback
from copy import deepcopy

import pytest
from tests.cli.migration import strangers_codec

from kvseal.envelope.stored import to_stored
from kvseal.errors import MalformedRecordError, TamperedRecordError, UnsealableValueError, UsageError
from kvseal.legacy.foreign import ForeignCodec

HERE = "tests.cli.migration.strangers_codec:"
KEYS = [b"another key", b"a key of a stranger"]
VALUE = {"n": 1, "deep": {"a": [1]}}


def record(value: dict[str, object]) -> dict[str, object]:
    """Return what the stranger's application stores."""
    stored: dict[str, object] = strangers_codec.Codec(KEYS[1:]).seal(value, "c", "k")
    return stored


def test_what_it_is_given_is_its_own() -> None:
    """A codec that changes what it is given changes nothing of what was read."""
    stored = {**record(VALUE), "note": {"inner": 1}}
    before = deepcopy(stored)

    assert VALUE == ForeignCodec(f"{HERE}Vandal", KEYS).open(stored, "c", "k")
    assert before == stored


@pytest.mark.parametrize(
    ("value", "names", "error"),
    [
        ({"n": 2}, ("c", "k"), TamperedRecordError),
        ({"n": 3}, ("c", "k"), MalformedRecordError),
        ({"n": 1}, ("c", "other"), TamperedRecordError),
    ],
)
def test_what_it_raises(value: dict[str, object], names: tuple[str, str], error: type[Exception]) -> None:
    """What it raises, or returns that is no value, is one of kvseal's errors and drags nothing along."""
    with pytest.raises(error) as caught:
        ForeignCodec(f"{HERE}Vandal", KEYS).open(record(value), *names)
    assert caught.value.__context__ is None
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


def test_nan_and_lies_are_not_written() -> None:
    """On the way back, only what is read back as the same value is written."""
    with pytest.raises(UnsealableValueError):
        ForeignCodec(f"{HERE}Liar", KEYS).seal(VALUE, "c", "k")
    codec = ForeignCodec(f"{HERE}Codec", KEYS)
    assert VALUE == codec.open(codec.seal(VALUE, "c", "k"), "c", "k")


@pytest.mark.parametrize("location", ["Nothing", "Mute"])
def test_no_codec(location: str) -> None:
    """A class that is not there, or cannot open, is refused when it is loaded."""
    with pytest.raises(UsageError):
        ForeignCodec(f"{HERE}{location}", KEYS)


def test_which_entries_are_its_own() -> None:
    """Its own word decides, or without one everything; never what kvseal has sealed."""
    says, all_of_it = ForeignCodec(f"{HERE}Codec", KEYS), ForeignCodec(f"{HERE}OneWay", KEYS)

    assert [True, False, False] == [
        says.recognises(one) for one in (record(VALUE), {"a": 1}, to_stored(bytes(60)))
    ]
    assert [True, True, False] == [
        all_of_it.recognises(one) for one in (record(VALUE), {"a": 1}, to_stored(bytes(60)))
    ]
    assert (True, False) == (says.seals, all_of_it.seals)

"""The tree of errors: drawn as it is, caught as before, and with an exit code that is listed."""

from __future__ import annotations

import copy
import pickle
import re

import pytest
from key_value.aio import errors as upstream

from kvseal import errors
from kvseal.errors import ExitCode, KvsealError, RecordError, UnreadableRecordsError

BULLET = re.compile(r"^(\s*)[*+x\-·] (\w+)(?: \((\w+)\))?")


def drawn() -> dict[str, tuple[str | None, str | None]]:
    """Return the tree of the module's docstring: name → its parent there, and upstream's class beside it."""
    tree: dict[str, tuple[str | None, str | None]] = {}
    path: list[tuple[int, str]] = []
    for line in str(errors.__doc__).splitlines():
        match = BULLET.match(line)
        if match is None:
            continue
        indent, name, beside = len(match[1]), match[2], match[3]
        path = [(depth, parent) for depth, parent in path if depth < indent]
        tree[name] = (path[-1][1] if path else None, beside)
        path.append((indent, name))
    return tree


def classes() -> dict[str, type[KvsealError]]:
    """Return every error class that kvseal defines."""
    return {
        name: value
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, KvsealError)
    }


each_class = pytest.mark.parametrize("error", list(classes().values()), ids=lambda error: error.__name__)


def test_docstring_draws_every_class_and_no_other() -> None:
    """Every error class stands in the docstring's tree, and everything in the tree exists."""
    assert set(classes()) == set(drawn())


@each_class
def test_drawn_where_it_is(error: type[KvsealError]) -> None:
    """Each class hangs in the docstring below its first base class, with upstream's class beside it."""
    parent, beside = drawn()[error.__name__]

    if parent is not None:
        assert parent == error.__bases__[0].__name__
    if beside is not None:
        assert issubclass(error, getattr(upstream, beside))


@each_class
def test_exit_code_is_listed(error: type[KvsealError]) -> None:
    """Each class has an exit code that the list explains, and none is success."""
    assert error.exit_code in set(ExitCode)
    assert error.exit_code != 0


@each_class
def test_caught_by_upstreams_handlers(error: type[KvsealError]) -> None:
    """Each class is one of py-key-value's own errors."""
    assert issubclass(error, upstream.BaseKeyValueError)


@each_class
def test_has_a_docstring(error: type[KvsealError]) -> None:
    """Each class says in its own words when it is raised."""
    assert error.__doc__
    assert error.__doc__ != error.__bases__[0].__doc__


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (errors.RecordError, upstream.DecryptionError),
        (errors.MalformedRecordError, upstream.CorruptedDataError),
        (errors.TamperedRecordError, upstream.CorruptedDataError),
        (errors.UnknownRecordVersionError, upstream.EncryptionVersionError),
        (errors.UnsealableValueError, upstream.SerializationError),
        (errors.ReservedNameError, upstream.InvalidKeyError),
        (errors.VaultError, upstream.StoreSetupError),
        (errors.StoreError, upstream.StoreConnectionError),
        (errors.SecretReferenceError, ValueError),
        (errors.KDFParametersError, ValueError),
    ],
    ids=lambda value: value.__name__,
)
def test_existing_handlers_keep_working(ours: type[KvsealError], theirs: type[Exception]) -> None:
    """Handlers that were written for the other wrappers catch kvseal's errors too."""
    assert issubclass(ours, theirs)


@pytest.mark.parametrize("error", [KvsealError, RecordError], ids=lambda error: error.__name__)
def test_message_and_hint(error: type[KvsealError]) -> None:
    """The message is the text, and the hint stands apart from it."""
    one = error("it failed", hint="try again")

    assert ("it failed", "try again") == (str(one), one.hint)
    assert "" == error("it failed").hint


def test_record_error_names_its_record() -> None:
    """A record error that was told its names ends with them."""
    error = RecordError("it failed").at("c", "k\n")

    assert "it failed (collection 'c', key 'k\\n')" == str(error)
    assert ("c", "k\n") == (error.collection, error.key)


def test_unreadable_records_name_all() -> None:
    """The error of many records names each of them, with its class."""
    parts = [
        errors.TamperedRecordError("changed").at("c", "a"),
        errors.UnknownDEKError("unknown").at("c", "b"),
    ]
    error = UnreadableRecordsError(parts, 7)

    assert tuple(parts) == error.errors
    assert [
        "2 of 7 records cannot be opened:",
        "  TamperedRecordError: changed (collection 'c', key 'a')",
        "  UnknownDEKError: unknown (collection 'c', key 'b')",
    ] == str(error).splitlines()


@each_class
def test_leaves_a_process_pool(error: type[KvsealError]) -> None:
    """An error that is raised in another process arrives as it was."""
    if error is UnreadableRecordsError:
        one: KvsealError = UnreadableRecordsError([RecordError("it failed").at("c", "k")], 3)
    else:
        one = error("it failed", hint="try again")
    for back in (pickle.loads(pickle.dumps(one)), copy.copy(one)):
        assert type(one) is type(back)
        assert str(one) == str(back)
        assert one.hint == back.hint

"""Bodies and rows as each backend keeps them: what any process that writes there can leave for a driver."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from datetime import datetime, timezone
from functools import cache
from typing import TYPE_CHECKING, Any

import bson
from bson.errors import InvalidBSON
from bson.raw_bson import RawBSONDocument
from tests.fuzz.target import MIGRATIONS, NotAnInputError, Target, now, scratch
from tests.fuzz.targets.legacy import bodies
from tests.fuzz.targets.sealed import mapping

from kvseal.drivers import driver_from_url, joined
from kvseal.drivers.base import Entry, Replacement
from kvseal.drivers.body import patch_body
from kvseal.drivers.disk import rows as disk_rows
from kvseal.drivers.disk.value_files import UnsafeFileNameError, ValueFiles
from kvseal.drivers.duckdb import rows as duckdb_rows
from kvseal.drivers.dynamodb import items as dynamodb_items
from kvseal.drivers.filetree.folders import read_info
from kvseal.drivers.mongodb import documents
from kvseal.drivers.mongodb.names import BY_OPTION
from kvseal.drivers.postgresql import rows as postgresql_rows
from kvseal.drivers.s3 import entries as s3_entries
from kvseal.drivers.s3.names import ObjectNames, rules_of
from kvseal.errors import KvsealError

if TYPE_CHECKING:
    from pathlib import Path

KEY = b"sessions::user:1"


def _used(entry: Entry) -> None:
    """Do with *entry* what a recode does: look at it, and make the body that replaces it."""
    assert (entry.value is None) == bool(entry.problem)
    if not entry.problem:
        try:
            joined.patched(Replacement(entry, {"a": 1}))
        except KvsealError:
            return


def _body(data: bytes) -> None:
    """Read a body under a key of Redis, Valkey and RocksDB, and in a row of diskcache."""
    entry = joined.entry_of(KEY, data, ("sessions", "user:1"))
    _used(entry)
    if not entry.problem:
        # What stands around the value is kept, so the times are.
        again = joined.entry_of(KEY, patch_body(data, {"a": 1}).encode("utf-8", "surrogatepass"))
        assert (again.value, again.expires_at) == ({"a": 1}, entry.expires_at)
    row = disk_rows.Row(1, KEY, True, 1, None, 0, 1, None, data, True)
    _used(disk_rows.entry_of(row, data))


def _bodies() -> list[bytes]:
    odd = {
        "collection": "sessions",
        "key": "user:1",
        "value": '{"a": 1}',
        "version": 1,
        "expires_at": "2099-12-31T23:59:59+05:00",
    }
    named = [
        json.dumps({**json.loads(body), "collection": "sessions", "key": "user:1"}).encode()
        for body in bodies()
    ]
    return [*named, *bodies()[:5], json.dumps(odd).encode()]


def _key(data: bytes) -> None:
    """Read bodies under any key."""
    body = json.dumps({"value": {"a": 1}, "version": 1}).encode()
    entry = joined.entry_of(data, body)
    assert entry.problem or f"{entry.collection}::{entry.key}".encode() == data
    row = disk_rows.Row(1, data, True, 1, None, 0, 1, None, body, True)
    if not disk_rows.row_problem(row):
        disk_rows.entry_of(row, body)


_COLUMNS = ("key", "key_is_text", "raw", "expire_time", "size", "mode", "filename", "value_is_text")


def _rows() -> list[bytes]:
    rows = (
        [KEY.decode(), 1, 1, None, 0, 1, None, 1],
        [KEY.decode(), 1, 1, 4e9, 9, 3, "ab/cd/" + "0" * 28 + ".val", 1],
    )
    return [json.dumps(dict(zip(_COLUMNS, row, strict=True))).encode() for row in rows]


def _column(value: Any) -> Any:
    """Return *value* as SQLite would: text as bytes, and no number beyond 64 bits."""
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    if isinstance(value, (dict, list)):
        return json.dumps(value).encode()
    return float(value) if isinstance(value, int) and abs(value) >= 2**63 and abs(value) < 10**300 else value


def _row(data: bytes) -> None:
    fields = {name: _column(value) for name, value in mapping(data).items()}
    key, file = fields.get("key"), fields.get("filename")
    if any(value is not None and not isinstance(value, bytes) for value in (key, file)):
        raise NotAnInputError
    numbers = [fields.get(name) for name in ("raw", "expire_time", "size", "mode")]
    row = disk_rows.Row(
        1, key, bool(fields.get("key_is_text")), *numbers, file, b"{}", bool(fields.get("value_is_text"))
    )
    row.has_expired(1e9)
    if row.value_file is not None:
        with suppress(UnsafeFileNameError, FileNotFoundError):
            ValueFiles(scratch()).read(row.value_file)
    if not disk_rows.row_problem(row):
        _used(disk_rows.entry_of(row, b'{"value": {"a": 1}, "version": 1}'))


@cache
def _databases() -> list[bytes]:
    found = [path.read_bytes() for path in sorted(MIGRATIONS.glob("*/vault/cache.db"))]
    return sorted(found, key=len)[:4]


async def _walk(url: str) -> None:
    driver = await driver_from_url(url)
    try:
        async for page in driver.scan(expired=True):
            for entry in page.entries:
                str(entry.problem)
        await driver.get("sessions", "session-1")
    finally:
        await driver.close()


def _database(data: bytes) -> None:
    """Walk a damaged `cache.db`, from whose pages SQLite itself may read nonsense."""
    folder = scratch() / "disk"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "cache.db").write_bytes(data)
    now(_walk(f"disk:{folder}"))


def _files() -> list[bytes]:
    return [path.read_bytes() for path in sorted(MIGRATIONS.glob("*filetree/vault/**/*.json"))]


@cache
def _tree() -> Path:
    folder = scratch() / "tree" / "sessions"
    folder.mkdir(parents=True)
    return folder


def _file(data: bytes) -> None:
    """Walk a file tree in which both a file and the info of its folder hold any bytes."""
    read_info(data)
    (_tree() / "session-1.json").write_bytes(data)
    (_tree().parent / "sessions-info.json").write_bytes(data)
    now(_walk(f"filetree:{_tree().parent}?names=plain"))


def _values() -> list[bytes]:
    values = [json.dumps(json.loads(body)["value"]).encode() for body in bodies()]
    return [*values[:20], json.dumps(values[0].decode()).encode()]


def _table(data: bytes) -> None:
    """Read rows of PostgreSQL and DuckDB whose column holds any text."""
    text = data.decode("utf-8", "replace")
    moment = datetime(2030, 1, 1, tzinfo=timezone.utc)
    names = {"collection": "c", "key": "k", "created_at": moment, "expires_at": None}
    _used_row(postgresql_rows.entry_of({**names, "value": text, "has_odd_time": False}))
    microseconds = int.from_bytes(data[:8].ljust(8, b"\0"), "big", signed=True)
    entry = duckdb_rows.entry_of(["c", "k", text, microseconds, None, False])
    _used_row(entry)
    assert entry.stored.decode() == duckdb_rows.read_of(entry)["stored"]
    if entry.value is not None:
        duckdb_rows.text_of(entry.value)
        for as_text in (False, True):
            try:
                postgresql_rows.written(entry.value, as_text=as_text)
            except KvsealError:
                continue


def _documents() -> list[bytes]:
    moment = datetime(2030, 1, 1, tzinfo=timezone.utc)
    fields = {"_id": "i", "collection": "c", "key": "k", "created_at": moment, "expires_at": moment}
    values = [{"object": json.loads(value)} for value in _values()[:8] if value.startswith(b"{")]
    odd = [{"object": '{"a": 1}'}, {"object": moment}, [1], None]
    return [bson.encode({**fields, "value": value}) for value in (*values, *odd)]


def _document(data: bytes) -> None:
    """Read a document of MongoDB that holds anything, and make the swap that replaces it."""
    try:
        document = RawBSONDocument(data, documents.RAW)
        is_of_the_store = isinstance(document.get("key"), str) and "_id" in document
    except (InvalidBSON, ValueError, IndexError):
        raise NotAnInputError from None
    if not is_of_the_store:
        raise NotAnInputError
    entry = documents.entry_of("c", document, BY_OPTION["plain"])
    _used_row(entry)
    if not entry.problem:
        swap = documents.Swap.of(Replacement(entry, {"a": 1}))
        assert not swap.is_done(document) or entry.value == {"a": 1}


def _used_row(entry: Entry) -> None:
    assert (entry.value is None) == bool(entry.problem)


def _items() -> list[bytes]:
    return [*bodies()[:20], b"1700000000", b"1.5"]


def _item(data: bytes) -> None:
    """Read items of DynamoDB whose value and whose ttl are any text."""
    text = data.decode("utf-8", "replace")
    item = {"collection": {"S": "c"}, "key": {"S": "k"}, "value": {"S": text}}
    for ttl in (None, {"N": text[:40]}, {"S": text}):
        entry = dynamodb_items.entry_of(item if ttl is None else {**item, "ttl": ttl})
        _used_row(entry)
        dynamodb_items.is_live(entry)
        assert dynamodb_items.size_of(entry) >= len(entry.stored)
        if entry.value is not None:
            _replaced(entry)


def _object(data: bytes) -> None:
    """Read an object of S3 whose key and body are any text, by each rule of names, and make what replaces it."""
    text = data.decode("utf-8", "replace")
    for rule in ("plain", "hashed", None):
        names = ObjectNames.of(rules_of(rule), ["c"])
        for key in (f"c/{text[:40]}", "c/k", text[:40]):
            _used_row(s3_entries.entry_of(names, s3_entries.Found(s3_entries.Place(key), data)))


def _replaced(entry: Entry) -> None:
    try:
        dynamodb_items.new_body(Replacement(entry, {"v": 1}))
    except KvsealError:
        return


TARGETS = (
    Target(
        "body",
        ("drivers.body.read_body", "drivers.joined.entry_of", "drivers.disk.rows.entry_of"),
        _bodies,
        _body,
        is_json=True,
    ),
    Target("stored-key", (), lambda: [KEY, b"a:::b", b"::", b"no separator"], _key),
    Target("disk-row", ("drivers.disk.value_files.ValueFiles.read",), _rows, _row, is_json=True),
    Target("disk-database", ("drivers.disk.driver.from_url",), _databases, _database),
    Target(
        "filetree-file",
        tuple(
            f"drivers.filetree.{name}"
            for name in ("driver.from_url", "folders.read", "folders.read_info", "folders.Tree.read")
        ),
        _files,
        _file,
        is_json=True,
    ),
    Target("s3-object", ("drivers.s3.entries.entry_of",), bodies, _object, is_json=True),
    Target("dynamodb-item", ("drivers.dynamodb.items.entry_of",), _items, _item, is_json=True),
    Target(
        "table-row",
        ("drivers.postgresql.rows.entry_of", "drivers.duckdb.rows.entry_of", "drivers.duckdb.rows.read_of"),
        _values,
        _table,
        is_json=True,
    ),
    Target("document", ("drivers.mongodb.documents.entry_of",), _documents, _document),
)

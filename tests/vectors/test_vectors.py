"""kvseal's own formats: written by one implementation, checked by another, refused where they must be."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.keys.made import NOW
from tests.strategies import same
from tests.vectors.generate_extensions import extensions
from tests.vectors.generate_records import metas, records, text_of
from tests.vectors.verify_records import edited

from kvseal import Secret
from kvseal.envelope.codec import RecordCodec
from kvseal.envelope.kdf import DEFAULT_MEMORY_CEILING
from kvseal.envelope.record import Binding
from kvseal.envelope.sealing import Associations, Opener, Sealer
from kvseal.errors import KvsealError, RecordError
from kvseal.keys.keyring import Keyring
from kvseal.keys.meta import VaultMeta
from kvseal.keys.rootkey import RootKey
from kvseal.keys.unlocking import unlock

HERE = Path(__file__).parent
VERIFIER = HERE / "verify_records.py"
RECORDS: dict[str, Any] = json.loads((HERE / "record-v1.json").read_text(encoding="ascii"))
EXTENSIONS: dict[str, Any] = json.loads((HERE / "extensions-v1.json").read_text(encoding="ascii"))
METAS: dict[str, Any] = json.loads((HERE / "meta-v1.json").read_text(encoding="ascii"))


def each(vectors: list[dict[str, Any]]) -> pytest.MarkDecorator:
    """Return the parametrization of a test by vectors, each under its own name."""
    return pytest.mark.parametrize(
        "vector", vectors, ids=lambda vector: str(vector["name"]).replace(" ", "-")
    )


def codec(vector: dict[str, Any], *, vault_id: str, weakest: int) -> RecordCodec:
    """Return the codec that reads a vector."""
    deks = {int(number): bytes.fromhex(dek) for number, dek in RECORDS["deks"].items()}
    associations = Associations(bytes.fromhex(vault_id), context=vector["context"])
    return RecordCodec(Sealer(deks[1], 1, associations), Opener(deks, associations, weakest=Binding(weakest)))


async def open_meta(meta: dict[str, Any], secret: str) -> Keyring:
    """Open a vault meta with a secret in hexadecimal."""
    parsed = VaultMeta.from_value(meta)
    root, _ = await unlock(
        parsed.slots,
        Secret(bytes.fromhex(secret)),
        parsed.vault_id,
        now=NOW,
        memory_ceiling=DEFAULT_MEMORY_CEILING,
    )
    return Keyring(parsed, root)


@pytest.mark.parametrize(
    ("name", "vectors"),
    [("record-v1.json", records), ("meta-v1.json", metas), ("extensions-v1.json", extensions)],
    ids=["records", "metas", "extensions"],
)
def test_generator_writes_what_is_committed(name: str, vectors: Any) -> None:
    """The committed file is what the generator writes today: no format drifts unnoticed."""
    assert (HERE / name).read_text(encoding="ascii") == text_of(vectors())


@pytest.mark.processes
def test_independent_implementation_agrees() -> None:
    """The verifier, run as people run it, opens and refuses every vector as expected."""
    done = subprocess.run([sys.executable, VERIFIER], capture_output=True, text=True, check=False)

    assert "" == done.stderr
    assert "167 record, 75 vault meta, 36 extension and 22 reading vectors verified\n" == done.stdout


def test_verifier_is_independent() -> None:
    """The verifier imports neither kvseal nor a test of it."""
    imported = {
        (node.module or "") if isinstance(node, ast.ImportFrom) else alias.name
        for node in ast.walk(ast.parse(VERIFIER.read_text(encoding="utf-8")))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }

    assert {"cryptography", "argon2"} == {
        name.partition(".")[0] for name in imported if name.partition(".")[0] not in sys.stdlib_module_names
    }


@each(RECORDS["positive"])
def test_record_opens(vector: dict[str, Any]) -> None:
    """A record that an earlier kvseal wrote opens to its value and expiry."""
    reader = codec(vector, vault_id=RECORDS["vault_id"], weakest=vector["binding"])
    value, expires_at = reader.open(vector["stored"], vector["collection"], vector["key"])
    text = vector.get("value") or bytes.fromhex(vector["payload"]).decode("utf-8", "surrogatepass")

    assert same(json.loads(text), value)
    assert vector["expires_at"] == expires_at


@each(RECORDS["positive"])
def test_record_verifies(vector: dict[str, Any]) -> None:
    """Every payload of a vector is in the one form that a writer gives it."""
    reader = codec(vector, vault_id=RECORDS["vault_id"], weakest=vector["binding"])
    found = reader.verify(vector["stored"], vector["collection"], vector["key"])
    opened = reader.open(vector["stored"], vector["collection"], vector["key"])

    assert opened[1] == found[1]
    assert same(opened[0], found[0])


@each([vector for vector in RECORDS["positive"] if vector.get("names_inside")])
def test_record_says_its_names(vector: dict[str, Any]) -> None:
    """A record that carries its names says them to a holder of the DEK."""
    reader = codec(vector, vault_id=RECORDS["vault_id"], weakest=0)

    assert (vector["collection"], vector["key"]) == reader.names_in(vector["stored"])


@each(RECORDS["negative"])
def test_record_is_refused(vector: dict[str, Any]) -> None:
    """A record that must not open has exactly the error that the vector names."""
    reader = codec(vector, vault_id=vector["vault_id"], weakest=vector["weakest"])
    read = reader.verify if vector.get("found_by") == "verify" else reader.open
    with pytest.raises(RecordError) as caught:
        read(vector["stored"], vector["collection"], vector["key"])
    assert vector["error"] == type(caught.value).__name__


@each(METAS["positive"])
async def test_meta_opens(vector: dict[str, Any]) -> None:
    """A vault that an earlier kvseal wrote opens with each of its secrets, and so does its record."""
    record = vector["record"]
    for secret in vector["secrets"]:
        keyring = await open_meta(vector["meta"], secret)

        assert vector["deks"] == {str(number): dek.hex() for number, dek in keyring._deks.items()}
        held: dict[str, list[str]] = {"old": [], "ended": [], "second": []}
        for key in vector["meta"]["legacy"]:
            is_second, has_ended = key["kind"] == "kvseal-dek", "ended_at" in key
            held["second" if is_second else "ended" if has_ended else "old"] += [vector["legacy"][key["id"]]]
        assert held["old"] == [key.key.hex() for key in keyring.legacy]
        assert held["ended"] == [key.key.hex() for key in keyring.ended]
        assert held["second"] == [dek.hex() for deks in keyring._seconds.values() for dek in deks]
        assert (record["value"], None) == keyring.codecs[""].open(
            record["stored"], record["collection"], record["key"]
        )


def test_handover() -> None:
    """The root key of before has handed over to the one of the meta, and no other has."""
    (vector,) = (vector for vector in METAS["positive"] if "previous_root_key" in vector)
    meta = VaultMeta.from_value(vector["meta"])
    previous = RootKey(bytes.fromhex(vector["previous_root_key"]), meta.vault_id)
    root = RootKey(bytes.fromhex(vector["root_key"]), meta.vault_id)

    assert [True, False] == [meta.follows(previous), meta.follows(root)]
    assert meta.handover is not None
    assert [False, True] == [meta.handover.is_to(previous), meta.handover.is_to(root)]


@each(METAS["negative"])
async def test_meta_is_refused(vector: dict[str, Any]) -> None:
    """A vault meta that must not open has exactly the error that the vector names."""
    with pytest.raises(KvsealError) as caught:
        await open_meta(edited(METAS["positive"][-1]["meta"], vector["edits"]), vector["secret"])
    assert vector["error"] == type(caught.value).__name__


@each(EXTENSIONS["positive"])
async def test_extended_meta_opens(vector: dict[str, Any]) -> None:
    """A vault to which a later kvseal has added parts opens, and may be changed unless one of them is critical."""
    keyring, meta = await open_meta(vector["meta"], vector["secret"]), VaultMeta.from_value(vector["meta"])
    record, refusal = vector["record"], meta.extensions.refusal()

    assert vector["deks"] == {str(number): dek.hex() for number, dek in keyring._deks.items()}
    assert (record["value"], None) == keyring.codecs[""].open(
        record["stored"], record["collection"], record["key"]
    )
    assert vector["change"] == ("accepted" if refusal is None else type(refusal).__name__)


@each(EXTENSIONS["negative"])
async def test_extended_meta_is_refused(vector: dict[str, Any]) -> None:
    """A part that not every release could keep has exactly the error that the vector names."""
    with pytest.raises(KvsealError) as caught:
        await open_meta(vector["meta"], EXTENSIONS["positive"][0]["secret"])
    assert vector["error"] == type(caught.value).__name__

"""
FastMCP's keys, and the names in its values, against what real releases have written.

`tests/vectors/fastmcp.json` was written by fastmcp 2.13.3, 2.14.7, 3.4.10 and 4.1.2, each in an environment
of its own (`generate_fastmcp.py`): FastMCP derived the key, sealed the value and named the directory.  The
vaults in `migrations/` come from real logins at the same releases.
"""

from __future__ import annotations

import json
import shutil
import traceback
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from kvseal.drivers import driver_from_url
from kvseal.drivers.abilities import proves
from kvseal.errors import RecordError, SecretError, TamperedRecordError
from kvseal.legacy import FERNET, FastMCPCodec, FernetCodec, PlaintextCodec, codecs_for
from kvseal.legacy.fastmcp import (
    KEY_FIELDS,
    URL_SUFFIXES,
    fingerprint,
    key_of_bytes_signing_key,
    key_of_client_secret,
    key_of_text_signing_key,
)
from kvseal.legacy.fernet import parse_key

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kvseal.drivers.base import Driver, Entry

ROOT = Path(__file__).parent.parent.parent
FROZEN = json.loads((ROOT / "tests/vectors/fastmcp.json").read_text(encoding="ascii"))
VECTORS: list[dict[str, Any]] = FROZEN["vectors"]
MIGRATIONS = ROOT / "migrations"

DERIVATIONS: dict[str, Callable[[bytes], bytes]] = {
    "client secret": key_of_client_secret,
    "text": lru_cache(key_of_text_signing_key),
    "bytes": key_of_bytes_signing_key,
    "command line": lambda text: text,
}


def key_of(vector: dict[str, Any]) -> bytes:
    """Return the text of the Fernet key that kvseal derives for a vector."""
    return DERIVATIONS[vector["form"]](vector["secret"].encode())


def secret(folder: str, name: str) -> bytes:
    """Return a test secret of a frozen vault."""
    return (MIGRATIONS / folder / "keys" / name).read_bytes().strip()


def thawed(folder: str, to: Path) -> Path:
    """Return a copy of a frozen vault: what a driver leaves beside it is not to be committed."""
    shutil.copytree(MIGRATIONS / folder / "vault", to / folder)
    return to / folder


async def entries_of(driver: Driver) -> list[Entry]:
    """Return every live entry."""
    found = [entry async for page in driver.scan() for entry in page.entries]
    await driver.close()
    return found


async def read(driver: Driver, codec: FastMCPCodec) -> list[tuple[str | None, str | None, dict[str, Any]]]:
    """Return names and values of what *codec* opens: a key that the driver lacks is the first one proven."""
    found = []
    for entry in await entries_of(driver):
        assert entry.value is not None
        assert codec.recognises(entry.value)
        try:
            value = codec.open(entry.value)
        except RecordError:
            continue
        candidates = codec.key_candidates(entry.collection, value)
        key = entry.key or next((key for key in candidates if proves(driver, entry, key)), None)
        found.append((entry.collection, key, value))
    return found


def expected(folder: str) -> list[tuple[str | None, str | None, dict[str, Any]]]:
    """Return what FastMCP's own wrapper held in a frozen vault, without what is not to open."""
    text = (MIGRATIONS / folder / "expected.jsonl").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in text.splitlines()]
    return [(line["collection"], line["key"], line["value"]) for line in lines if line.get("opens", True)]


def in_order(found: Sequence[tuple[Any, ...]]) -> list[str]:
    """Return *found* as text in one order."""
    return sorted(json.dumps(each, sort_keys=True) for each in found)


@pytest.mark.parametrize(
    "vector", VECTORS, ids=lambda v: f"{v['fastmcp']}-{v['form'].replace(' ', '-')}-{len(v['secret'])}"
)
def test_real_releases(vector: dict[str, Any]) -> None:
    """The derived key opens what each release wrote for each form of secret, and names its directory."""
    key = key_of(vector)

    assert FROZEN["value"] == FastMCPCodec([parse_key(key)]).open(vector["stored"])
    assert vector["fingerprint"] in {None, fingerprint(key)}


def test_vectors_are_complete() -> None:
    """Every release and form is among the vectors, and all that name their directories have a fingerprint."""
    forms = {(vector["fastmcp"][:4], vector["form"]) for vector in VECTORS}
    named = {vector["fastmcp"][0] for vector in VECTORS if vector["fingerprint"] is not None}

    assert {"2.13", "2.14", "3.4.", "4.1."} == {release for release, _ in forms}
    assert 13 == len(forms)
    assert {"3", "4"} == named


@pytest.mark.parametrize("form", ["client secret", "text", "bytes"])
def test_forms_are_not_exchangeable(form: str) -> None:
    """The same characters, configured in another way, are another key."""
    vector = next(v for v in VECTORS if v["form"] == form)
    others = [
        key_of({**vector, "form": other}) for other in ("client secret", "text", "bytes") if other != form
    ]

    with pytest.raises(TamperedRecordError, match="none of 2 Fernet keys"):
        FastMCPCodec([parse_key(key) for key in others]).open(vector["stored"])


@pytest.mark.parametrize("derive", list(DERIVATIONS.values())[:3], ids=list(DERIVATIONS)[:3])
def test_no_text(derive: Callable[[bytes], bytes]) -> None:
    """Bytes that FastMCP itself could not use are refused without being shown."""
    secret = bytes(range(97, 123)) + b"\xff"
    with pytest.raises(SecretError, match="UTF-8") as caught:
        derive(secret)

    assert "abc" not in caught.value.hint + "".join(traceback.format_exception(caught.value))
    assert caught.value.__context__ is None


def test_is_fernet_in_reports_and_vaults() -> None:
    """The format is called what it is, so a vault holds such keys as it holds every Fernet key."""
    vector = VECTORS[0]
    (held,) = codecs_for([(FERNET, parse_key(key_of(vector)))])

    assert FERNET == FastMCPCodec([]).format
    assert FROZEN["value"] == held.open(vector["stored"])


@pytest.mark.parametrize(("collection", "field"), KEY_FIELDS.items())
def test_keys_in_values(collection: str, field: str) -> None:
    """Where the value repeats its key, that is the only candidate; in other collections it means nothing."""
    codec = FastMCPCodec([])

    assert ("abc",) == tuple(codec.key_candidates(collection, {field: "abc", "other": "x"}))
    assert () == tuple(codec.key_candidates("another", {field: "abc"}))
    assert () == tuple(codec.key_candidates(None, {field: "abc"}))


@pytest.mark.parametrize("value", [{}, {"jti": None}, {"jti": 7}, {"jti": ["abc"]}], ids=str)
def test_no_key_in_the_value(value: dict[str, Any]) -> None:
    """A value that has no text where the key would be makes no claim."""
    assert () == tuple(FastMCPCodec([]).key_candidates("mcp-jti-mappings", value))


@pytest.mark.parametrize(("collection", "suffix"), URL_SUFFIXES.items())
def test_keys_of_a_client(collection: str, suffix: str) -> None:
    """A client's keys begin with the server's URL, which 2.13 cut after the host and later ones do not."""
    codec = FastMCPCodec([], server_urls=["https://h.example:8443/mcp/?a=b", "https://h.example:8443"])
    bases = [
        "https://h.example:8443/mcp/?a=b",
        "https://h.example:8443",
    ]

    assert tuple(f"{base}/{suffix}" for base in bases) == tuple(codec.key_candidates(collection, {}))
    assert () == tuple(FastMCPCodec([]).key_candidates(collection, {"client_id": "x"}))


@pytest.mark.parametrize("url", ["https://h/mcp", "https://h/mcp/"])
def test_slash_at_the_end_of_a_url(url: str) -> None:
    """Whether the URL is given with its last slash does not matter, for clients drop it."""
    candidates = tuple(FastMCPCodec([], server_urls=[url]).key_candidates("mcp-oauth-token", {}))

    assert {"https://h/mcp/tokens", "https://h/tokens"} <= set(candidates)


@pytest.mark.parametrize("url", ["", "no url", "http://[", "://", "x" * 9])
def test_odd_urls(url: str) -> None:
    """Text that is no URL makes claims that nothing proves, and no error."""
    assert all(
        key.endswith("/tokens")
        for key in FastMCPCodec([], server_urls=[url]).key_candidates("mcp-oauth-token", {})
    )


@pytest.mark.parametrize("codec", [FernetCodec([]), PlaintextCodec()], ids=lambda codec: str(codec.format))
def test_other_formats_claim_nothing(codec: FernetCodec | PlaintextCodec) -> None:
    """Values of applications that kvseal does not know tell no keys."""
    assert () == tuple(codec.key_candidates("mcp-jti-mappings", {"jti": "abc"}))


async def test_disk_store(tmp_path: Path) -> None:
    """All records of a real 2.13 and 2.14 store come back; those of another server on the machine do not."""
    folder = "0005-fastmcp-2.13-disk"
    codec = FastMCPCodec([parse_key(key_of_client_secret(secret(folder, "client.secret")))])
    driver = await driver_from_url(f"disk:{thawed(folder, tmp_path)}/oauth-proxy")

    assert in_order(expected(folder)) == in_order(await read(driver, codec))


async def test_two_servers_in_one_disk_store(tmp_path: Path) -> None:
    """With the secrets of both servers, every record of their common store opens."""
    folder = "0005-fastmcp-2.13-disk"
    keys = [key_of_client_secret(secret(folder, name)) for name in ("client.secret", "other-client.secret")]
    driver = await driver_from_url(f"disk:{thawed(folder, tmp_path)}/oauth-proxy")
    found = await read(driver, FastMCPCodec([parse_key(key) for key in keys]))

    assert len(expected(folder)) + 5 == len(found)


async def test_file_tree_store(tmp_path: Path) -> None:
    """Of a real 3.4 and 4.1 store every record comes back with its key, though most file names do not tell it."""
    folder = "0006-fastmcp-3-filetree"
    key = key_of_text_signing_key(secret(folder, "signing.key"))
    url = f"filetree:{thawed(folder, tmp_path)}/oauth-proxy/{fingerprint(key)}"
    found = await read(await driver_from_url(url), FastMCPCodec([parse_key(key)]))

    assert in_order(expected(folder)) == in_order(found)
    assert all(name is not None for _, name, _ in found)
    assert {None} < {entry.key for entry in await entries_of(await driver_from_url(url))}


async def test_command_line_store(tmp_path: Path) -> None:
    """Of a real client's store those records get their keys whose servers were named, and no others."""
    folder = "0007-fastmcp-cli"
    key = secret(folder, "encryption.key")
    urls = ["https://mcp.example.com/mcp", "https://tools.example.org/"]
    url = f"filetree:{thawed(folder, tmp_path)}/cli-oauth/{fingerprint(key)}"
    found = await read(await driver_from_url(url), FastMCPCodec([parse_key(key)], server_urls=urls))

    assert in_order(expected(folder)) == in_order(found)
    assert 3 == [name for _, name, _ in found].count(None)


async def test_a_value_that_lies(tmp_path: Path) -> None:
    """A key that a planted value claims is not proven, so nobody seals the record for it."""
    folder = "0006-fastmcp-3-filetree"
    key = key_of_text_signing_key(secret(folder, "signing.key"))
    driver = await driver_from_url(f"filetree:{thawed(folder, tmp_path)}/oauth-proxy/{fingerprint(key)}")
    nameless = [entry for entry in await entries_of(driver) if entry.key is None]
    (claimed,) = FastMCPCodec([]).key_candidates("mcp-jti-mappings", {"jti": "somebody-elses"})

    assert nameless
    assert not any(proves(driver, entry, claimed) for entry in nameless)

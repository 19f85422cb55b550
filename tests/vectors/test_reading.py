"""What a reader makes of a stored value by its clock and the policy: kvseal and the independent reader agree."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from key_value.aio.stores.memory import MemoryStore
from tests.fakes import rewrite_policy
from tests.recoding.worlds import KEY, old
from tests.vectors.test_vectors import each
from tests.wrapping import wrapped

from kvseal import Argon2idParams, Policy, Secret, Vault, clock
from kvseal.errors import KvsealError
from kvseal.keys.wrapped_keys import WrappedLegacyKey
from kvseal.legacy.fernet import parse_key

if TYPE_CHECKING:
    import pytest

READING: dict[str, Any] = json.loads(Path(__file__).with_name("reading-v1.json").read_text(encoding="ascii"))
VALUE = {"v": 1}


async def made(cheap: Argon2idParams) -> tuple[MemoryStore, Vault]:
    """Return an empty store and a vault in it."""
    store = MemoryStore()
    return store, await Vault.create(store, secret=Secret(b"a secret"), kdf=cheap)


@each(READING["expiry"])
async def test_expiry(vector: dict[str, Any], cheap: Argon2idParams, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record reads as missing from the very millisecond of its sealed expiry on."""
    store, vault = await made(cheap)
    codec = vault.codecs[""]
    await store.put("k", codec.seal(VALUE, "c", "k", vector["expires_at"]), collection="c")
    monkeypatch.setattr(clock, "wall_ms", lambda: vector["now"])

    value = await wrapped(vault).get("k", collection="c")

    assert vector["reads_as"] == ("missing" if value is None else "value")


@each(READING["policy"])
async def test_policy(vector: dict[str, Any], cheap: Argon2idParams) -> None:
    """`read_legacy` opens the formats of the held keys, with these alone; `read_plaintext` what is of no format."""
    store, vault = await made(cheap)
    writers = {"sealed": wrapped(vault), "fernet": old(store), "plaintext": store}
    await writers[vector["stored"]].put("k", VALUE, collection="c")
    policy = Policy(read_legacy=vector["read_legacy"], read_plaintext=vector["read_plaintext"])
    await rewrite_policy(
        vault, store, policy, held=[held(vault, kind, vector.get("ended", False)) for kind in vector["held"]]
    )

    try:
        value = await wrapped(vault).get("k", collection="c")
    except KvsealError as exc:
        actual = type(exc).__name__
    else:
        assert value == VALUE
        actual = "value"

    assert vector["reads_as"] == actual


def held(vault: Vault, kind: str, has_ended: bool) -> WrappedLegacyKey:
    """Return the old application's key as the vault would hold it under that kind."""
    identifier = f"00000001{len(kind):08x}"
    now = clock.utc_seconds()
    wrapped_key = vault.way_in().root.wrap_legacy(parse_key(KEY), kind, identifier)
    return WrappedLegacyKey(identifier, kind, now, wrapped_key, now if has_ended else None)

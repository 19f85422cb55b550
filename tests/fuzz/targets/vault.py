"""What stands beside records: the vault meta with its slots, the checkpoint, the pin, wrap keys."""

from __future__ import annotations

import json
import os
from functools import cache

from key_value.aio.stores.memory import MemoryStore
from tests.fuzz.target import VECTORS, Target, a_file, now
from tests.fuzz.targets.sealed import mapping

from kvseal import Argon2idParams, Secret, Vault
from kvseal.drivers import driver_for
from kvseal.drivers.base import Entry
from kvseal.keys.meta import META_COLLECTION, META_KEY, VaultMeta
from kvseal.keys.rootkey import RootKey
from kvseal.recoding.progress import checkpoint
from kvseal.recoding.progress.checkpoint import CheckpointStore
from kvseal.vault.seen.pin import Pin, Pinned
from kvseal.wrapkeys.aws_kms import AwsKmsKey
from kvseal.wrapkeys.transit import TransitKey

SECRET = Secret(b"correct horse")
CHEAP = Argon2idParams(time_cost=1, memory_cost=8, parallelism=1)
CEILING = 1024
"""KiB that a hostile slot may make this test spend."""
MOMENT = 1_900_000_000_000


@cache
def metas() -> list[bytes]:
    """Return the metas of the vectors, one with a slot of a key service among them."""
    files = [json.loads((VECTORS / f"{name}-v1.json").read_text()) for name in ("meta", "extensions")]
    values = [case["meta"] for file in files for case in file["positive"]]
    values.append(json.loads((VECTORS / "external-slot-v1.json").read_text())["meta"])
    return [json.dumps(value).encode() for value in values]


def _meta(data: bytes) -> None:
    value = mapping(data)
    meta = VaultMeta.from_value(value)
    assert json.dumps(meta.as_value(), sort_keys=True) == json.dumps(value, sort_keys=True)
    meta.follows(RootKey(bytes(32), meta.vault_id))


def _stored_meta(data: bytes) -> None:
    """Open a vault whose meta is any JSON object, as a wrapper does."""
    store = MemoryStore()
    entry = Entry(META_COLLECTION, META_KEY, mapping(data))
    now(driver_for(store).put_if_absent(entry))
    vault = now(Vault.open(store, secret=SECRET, memory_ceiling=CEILING))
    now(vault.close())


def _checkpoints() -> list[bytes]:
    holder = {"host": "a", "machine": "m", "pid": os.getpid(), "started": 1, "token": "t"}
    tally = dict.fromkeys(("scanned", "changed", "already", "skipped", "failed", "conflicts"), 3)
    head = {
        "run": "ab",
        "plan": "cd",
        "command": "reencrypt",
        "started_at": MOMENT,
        "count": 2,
        "prepared": True,
        "splits": ["a", "b"],
        "surveyed": 3,
        "done": False,
    }
    part = {
        "run": "ab",
        "holder": holder,
        "until": MOMENT,
        "cursor": "c",
        "done": False,
        "marks": ["ef"],
        "tally": tally,
    }
    free = {**part, "holder": None, "cursor": None, "done": True}
    return [json.dumps({**head, **each}).encode() for each in (part, free)]


@cache
def _vault() -> Vault:
    vault: Vault = now(Vault.create(MemoryStore(), secret=SECRET, kdf=CHEAP))
    return vault


def _checkpoint(data: bytes) -> None:
    """Load a checkpoint of any content under a right seal, and use it as `status` and the next run do."""
    vault, value = _vault(), mapping(data)
    driver = vault.metastore.driver
    for key in (checkpoint.KEY, checkpoint.part_key(0)):
        sealed = vault.codecs[checkpoint.CONTEXT].seal_json(value, META_COLLECTION, key)
        now(driver.put_if_absent(Entry(META_COLLECTION, key, sealed)))
    entry, head = now(CheckpointStore(vault).head())
    part_entry, part = now(CheckpointStore(vault).part(str(value.get("run")), 0))
    now(driver.delete_if_unchanged(entry))
    now(driver.delete_if_unchanged(part_entry))
    if head is not None:
        head.as_json()
        str(head.started_at / 1000)
    if part is not None:
        part.as_json()
        part.is_free(MOMENT)
        str(part.tally.scanned)


def _pins() -> list[bytes]:
    return [Pinned(b"v" * 16, 7, b"d" * 32).as_bytes()]


def _pin(data: bytes) -> None:
    Pin(a_file(data, "pin")).load()


def _wrap_key(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    os.environ["VAULT_ADDR"] = "https://127.0.0.1:1"
    # Each is tried, also where the first one refuses the text.
    try:
        repr(TransitKey.from_reference(text))
    finally:
        repr(AwsKmsKey.from_reference(text))


def _keys() -> list[bytes]:
    return [b"transit/kv", b"a/b/key", b"alias/kv", b"arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab"]


TARGETS: tuple[Target, ...] = (
    Target(
        "vault-meta",
        (
            "keys.meta.VaultMeta.from_value",
            "keys.stamps.time_of",
            "keys.extensions.Extensions.from_json",
            "keys.policy.Policy.from_json",
            "keys.policy.WritePolicy.from_json",
        ),
        metas,
        _meta,
        is_json=True,
    ),
    Target("vault-opened", ("vault.metastore.MetaStore.load",), metas, _stored_meta, is_json=True),
    Target(
        "checkpoint",
        (
            "recoding.progress.checkpoint.Head.from_json",
            "recoding.progress.lease_holder.LeaseHolder.from_json",
            "recoding.progress.part.Part.from_json",
            "recoding.report.Tally.from_json",
        ),
        _checkpoints,
        _checkpoint,
        is_json=True,
    ),
    Target("pin", ("vault.seen.pin.Pin.load", "vault.seen.pin.Pinned.from_bytes"), _pins, _pin, is_json=True),
    Target(
        "wrap-key",
        ("wrapkeys.aws_kms.AwsKmsKey.from_reference", "wrapkeys.transit.TransitKey.from_reference"),
        _keys,
        _wrap_key,
    ),
)

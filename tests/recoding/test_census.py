"""After a rotation: every record on the active DEK, and the proof that every record opens."""

from __future__ import annotations

from typing import Any

import pytest
from key_value.aio.stores.memory import MemoryStore
from tests.fakes import dump, rewrite_policy
from tests.recoding.worlds import (
    KEY,
    OTHER_KEY,
    AnyStore,
    counts,
    damage,
    entries_of,
    failed,
    fill,
    plant,
)

from kvseal import Argon2idParams, EnvelopeEncryptionWrapper, Policy, Secret, Vault
from kvseal.drivers import driver_for
from kvseal.drivers.base import Replacement
from kvseal.envelope.payload import Encoding
from kvseal.envelope.stored import to_stored
from kvseal.keys.keyring import LegacyKey
from kvseal.legacy import FERNET
from kvseal.legacy.fernet import parse_key
from kvseal.recoding import Failure, plan_reencryption, recode, verify

SECRET = Secret(b"the secret of the vault")
CHEAP = Argon2idParams(time_cost=1, memory_cost=8, parallelism=1)


async def rotated(store: AnyStore) -> Vault:
    """Return the vault of *store* with records of two DEKs, a legacy one and plaintext."""
    vault = await Vault.create(store, secret=SECRET, kdf=CHEAP)
    wrapper = EnvelopeEncryptionWrapper(store, vault=vault)
    for name in "abc":
        await wrapper.put(name, {"v": name}, collection="c", ttl=10_000 if name == "c" else None)
    await vault.rotate_dek()
    await wrapper.put("new", {"v": "new"}, collection="c")
    await fill(store, {"legacy": {"v": 1}})
    await store.put("open", {"v": 1}, collection="c")
    return vault


async def sealed_expiry(store: AnyStore, vault: Vault, key: str) -> int | None:
    """Return the expiry that is sealed in a record."""
    entry = (await entries_of(store))["c", key]
    return vault.keyring.codecs[""].open(entry.value or {}, "c", key)[1]


async def test_everything_comes_to_the_active_dek(any_store: AnyStore) -> None:
    """Older records are re-sealed; legacy and plaintext records are left and counted as skipped."""
    vault = await rotated(any_store)
    before = await entries_of(any_store)

    report = await recode(any_store, plan_reencryption(vault))
    again = await recode(any_store, plan_reencryption(vault))

    after = await entries_of(any_store)
    assert {"scanned": 6, "changed": 3, "already": 1, "skipped": 2} == counts(report)
    assert ({"kvseal": 4, "fernet": 1, "plaintext": 1}, {2: 4}) == (report.formats, report.deks)
    assert {"scanned": 6, "already": 4, "skipped": 2} == counts(again)
    assert [(e.created_at, e.expires_at) for e in before.values()] == [
        (e.created_at, e.expires_at) for e in after.values()
    ]
    assert [before["c", k].stored for k in ("legacy", "open", "new")] == [
        after["c", k].stored for k in ("legacy", "open", "new")
    ]
    assert [{"v": name} for name in "abc"] == await EnvelopeEncryptionWrapper(
        any_store, vault=vault
    ).get_many(list("abc"), collection="c")
    await vault.close()


async def test_the_sealed_expiry_stays(any_store: AnyStore) -> None:
    """A backend's TTL that was taken away or added is not sealed in place of the true one."""
    vault = await rotated(any_store)
    expected = {name: await sealed_expiry(any_store, vault, name) for name in "abc"}
    entries = await entries_of(any_store)
    driver = driver_for(any_store)
    without, within = entries["c", "c"], entries["c", "a"]
    tampered = [
        Replacement(without, without.value or {}, None),
        Replacement(within, within.value or {}, without.expires_at),
    ]
    assert [True, True] == list(await driver.replace_many(tampered))
    await driver.close()

    await recode(any_store, plan_reencryption(vault))

    assert expected == {name: await sealed_expiry(any_store, vault, name) for name in "abc"}
    assert (expected["c"] is not None, expected["a"] is None) == (True, True)
    await vault.close()


async def test_a_damaged_record_is_told_once(any_store: AnyStore) -> None:
    """An old record that does not open fails once, not again in the verify pass; a new one fails there."""
    vault = await rotated(any_store)
    await damage(any_store, "a")
    await damage(any_store, "new")
    heard: list[Any] = []

    report = await recode(any_store, plan_reencryption(vault), listener=heard.append)

    assert ({"scanned": 6, "changed": 2, "skipped": 2, "failed": 2}, 3) == (
        counts(report),
        report.exit_code,
    )
    assert ["a", "new"] == failed(report)
    assert list(report.failures) == [event for event in heard if isinstance(event, Failure)]
    assert {1: 1, 2: 3} == report.deks
    await vault.close()


async def test_a_dry_run_of_a_reencryption(any_store: AnyStore) -> None:
    """It opens and seals, and writes nothing."""
    vault = await rotated(any_store)
    before = dump(any_store)

    report = await recode(any_store, plan_reencryption(vault, dry_run=True))

    assert {"scanned": 6, "changed": 3, "already": 1, "skipped": 2} == counts(report)
    assert before == dump(any_store)
    await vault.close()


class TestVerify:
    """Verify opens every record as a wrapper would, and writes nothing."""

    async def test_counts(self, any_store: AnyStore) -> None:
        """Formats and DEKs are counted; in strict policy, what is not sealed fails."""
        vault = await rotated(any_store)
        before = dump(any_store)

        report = await verify(any_store, vault)

        assert {"scanned": 6, "already": 4, "failed": 2} == counts(report)
        assert ({"kvseal": 4, "fernet": 1, "plaintext": 1}, {1: 3, 2: 1}) == (report.formats, report.deks)
        assert ["legacy", "open"] == failed(report)
        assert before == dump(any_store)
        await vault.close()

    @pytest.mark.parametrize("key", [KEY, OTHER_KEY], ids=["the key held", "another key held"])
    async def test_what_policy_reads_is_in_order(self, any_store: AnyStore, key: bytes) -> None:
        """While legacy keys are held, the records they open are fine, and no others."""
        vault = await rotated(any_store)
        await vault.read_legacy_with([LegacyKey(FERNET, parse_key(key))], plaintext=True)

        report = await verify(any_store, vault)

        assert ([] if key == KEY else ["legacy"]) == failed(report)
        assert {"kvseal": 4, "fernet": 1, "plaintext": 1} == report.formats
        await vault.close()

    async def test_plaintext_alone(self, store: MemoryStore) -> None:
        """A policy that reads plaintext does not read legacy records by that."""
        vault = await rotated(store)
        await rewrite_policy(vault, store, Policy(read_plaintext=True))

        assert ["legacy"] == failed(await verify(store, vault))

    async def test_every_kind_of_damage_is_named(self, store: MemoryStore) -> None:
        """A flipped, a moved, a foreign and a torn record each fail with their own reason."""
        vault = await Vault.create(store, secret=SECRET, kdf=CHEAP)
        foreign = await Vault.create(MemoryStore(), secret=SECRET, kdf=CHEAP)
        wrapper = EnvelopeEncryptionWrapper(store, vault=vault)
        for name in ("good", "flipped", "moved"):
            await wrapper.put(name, {"v": name}, collection="c")
        await damage(store, "flipped")
        moved = await store.get("good", collection="c")
        await store.put("moved", moved or {}, collection="c")
        await store.put("foreign", foreign.keyring.codecs[""].seal({}, "c", "foreign"), collection="c")
        await foreign.rotate_dek()
        await store.put("unknown", foreign.keyring.codecs[""].seal({}, "c", "unknown"), collection="c")
        await store.put("short", {"__encrypted_data__": "AQE=", "__encryption_version__": 2}, collection="c")
        plant(store, "torn", '{"value": {"v": 1')

        report = await verify(store, vault)

        assert {
            "flipped": "TamperedRecordError",
            "moved": "TamperedRecordError",
            "foreign": "TamperedRecordError",
            "unknown": "UnknownDEKError",
            "short": "MalformedRecordError",
            "torn": "RecordError",
        } == {failure.key: failure.reason.partition(":")[0] for failure in report.failures}
        assert ({"scanned": 7, "already": 1, "failed": 6}, 3) == (counts(report), report.exit_code)
        assert ({"kvseal": 6, "undecodable": 1}, {1: 4, 2: 1}) == (report.formats, report.deks)

    async def test_form_that_no_writer_gives(self, store: MemoryStore) -> None:
        """A value that kvseal would encode otherwise is read by `get`, and named by `verify`."""
        vault = await Vault.create(store, secret=SECRET, kdf=CHEAP)
        sealer = vault.codecs[""]._seal.__self__  # type: ignore[attr-defined]
        for name, payload in (("bin", b"\x81\xa1a\xc4\x01b"), ("long", b"\x81\xa1a\xcc\x01")):
            record = sealer.seal(payload, "c", name, Encoding.MESSAGEPACK)
            await store.put(name, to_stored(record), collection="c")
        await EnvelopeEncryptionWrapper(store, vault=vault).put("good", {"a": 1}, collection="c")

        report = await verify(store, vault)

        assert {"scanned": 3, "already": 1, "failed": 2} == counts(report)
        assert [("c", "bin"), ("c", "long")] == sorted((one.collection, one.key) for one in report.failures)
        assert all("no writer" in one.reason for one in report.failures)
        assert {"a": 1} == await EnvelopeEncryptionWrapper(store, vault=vault).get("long", collection="c")
        await vault.close()

    async def test_what_verify_passes_a_wrapper_reads(self, any_store: AnyStore) -> None:
        """A record that is in order by verify is one that `get` returns."""
        vault = await rotated(any_store)
        await damage(any_store, "b")
        refused = set(failed(await verify(any_store, vault)))
        wrapper = EnvelopeEncryptionWrapper(any_store, secret=SECRET, raise_on_decryption_error=False)

        read = {key: await wrapper.get(key, collection="c") for _, key in await entries_of(any_store)}

        assert refused == {key for key, value in read.items() if value is None}
        assert {"b", "legacy", "open"} == refused
        await wrapper.close() if hasattr(wrapper, "close") else await wrapper.release()
        await vault.close()


async def test_summary_has_exactly_the_promised_fields(store: MemoryStore) -> None:
    """Scripts rely on the names in a summary, and on counts as numbers under text keys."""
    vault = await rotated(store)

    summary = (await verify(store, vault)).as_dict()

    assert [
        "type",
        "schema",
        "command",
        "scanned",
        "changed",
        "already",
        "skipped",
        "failed",
        "conflicts",
        "seconds",
        "formats",
        "deks",
    ] == list(summary)
    assert ("summary", 1, "verify", {"1": 3, "2": 1}) == (
        summary["type"],
        summary["schema"],
        summary["command"],
        summary["deks"],
    )

"""What DynamoDB cannot hold: refused before anything is written, exactly where the server would refuse it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError
from tests.drivers.dynamodb.faults import Faults
from tests.drivers.dynamodb.tables import item
from tests.drivers.entries import FUTURE, SMALL, entry, fetched, scanned
from tests.recoding.worlds import fernet

from kvseal import Argon2idParams, EnvelopeEncryptionWrapper, Secret, Vault
from kvseal.backup import backup, restore
from kvseal.drivers import driver_from_url
from kvseal.drivers.abilities import put_many_if_absent
from kvseal.drivers.base import Replacement
from kvseal.drivers.dynamodb.items import ITEM_BYTES, new_item, size_of
from kvseal.errors import EntryTooLargeError, ReservedNameError, StoreError
from kvseal.recoding import PlaintextRule, migrate

if TYPE_CHECKING:
    from pathlib import Path

    from key_value.aio.stores.dynamodb import DynamoDBStore
    from tests.drivers.dynamodb.server import Server

    from kvseal.drivers.dynamodb.driver import DynamoDBDriver

pytestmark = [
    pytest.mark.servers,
    pytest.mark.filterwarnings("ignore:A configured store is unstable:UserWarning"),
]

SECRET = Secret(b"the secret of the new vault")
TOO_LARGE = {"large": "x" * ITEM_BYTES}


def largest(**fields: Any) -> dict[str, Any]:
    """Return the value that fills an item to the last byte, as an entry with *fields*."""
    made = new_item(entry(value={"x": ""}, **fields))
    body = made["value"]["S"]
    size = sum(len(name) + len(part.get("S", "")) for name, part in made.items())
    # A number takes a byte, and another one for each two digits.
    size += 1 + (len(made["ttl"]["N"]) + 1) // 2 if "ttl" in made else 0
    assert len(body) < ITEM_BYTES
    return {"x": "x" * (ITEM_BYTES - size)}


@pytest.mark.parametrize("fields", [{}, {"expires_at": FUTURE}])
async def test_the_largest_item(
    driver: DynamoDBDriver, table: str, shared_dynamodb: Server, fields: dict[str, Any]
) -> None:
    """An item of 400 KB with all that counts is put; one of a byte more is refused, as the server would."""
    value = largest(**fields)
    larger = {"x": value["x"] + "x"}

    assert await driver.put_if_absent(entry(value=value, **fields))
    with pytest.raises(EntryTooLargeError, match="409,601 bytes"):
        await driver.put_if_absent(entry("other", larger, collection="co", **fields))

    found = await fetched(driver)
    assert ITEM_BYTES == size_of(found)
    body = found.stored.decode().replace('"x": "', '"x": "x')
    with pytest.raises(ClientError, match="size"):
        shared_dynamodb.client().put_item(
            TableName=table, Item=item("coll", "key", body, fields.get("expires_at"))
        )


async def test_a_batch_with_one_too_large(driver: DynamoDBDriver) -> None:
    """A batch in which one does not fit writes none of them; nothing is asked of the server."""
    for key in ("a", "b"):
        await driver.put_if_absent(entry(key))
    entries = await scanned(driver)
    faults = Faults.of(driver)

    with pytest.raises(EntryTooLargeError):
        await driver.replace_many([Replacement(entries[0], SMALL), Replacement(entries[1], TOO_LARGE)])

    assert [] == faults.sent
    assert [{"n": 0}] * 2 == [one.value for one in await scanned(driver)]


async def test_attributes_of_others(driver: DynamoDBDriver, table: str, shared_dynamodb: Server) -> None:
    """Where attributes that the store does not know make an item too large, the server's refusal says so."""
    for key in ("a", "b"):
        made = new_item(entry(key))
        shared_dynamodb.client().put_item(TableName=table, Item={**made, "other": {"S": "x" * 300_000}})
    entries = await scanned(driver)

    for few in (entries[:1], entries):
        with pytest.raises(EntryTooLargeError):
            await driver.replace_many([Replacement(one, {"x": "x" * 200_000}) for one in few])


@pytest.mark.parametrize(
    ("collection", "key"), [("", "k"), ("c", ""), ("c", "k" * 1025), ("ä" * 1025, "k"), ("c", "\ud800")]
)
async def test_names(driver: DynamoDBDriver, collection: str, key: str) -> None:
    """A name that DynamoDB cannot hold is refused with what it can."""
    with pytest.raises(StoreError, match="cannot hold this") as caught:
        await driver.put_if_absent(entry(key, collection=collection))
    with pytest.raises(StoreError):
        await driver.get(collection, key)

    assert "bytes" in caught.value.hint


async def test_longest_names(driver: DynamoDBDriver) -> None:
    """The longest names are held, and come back from a scan that goes on behind them."""
    names = "c" * 2048, "k" * 1024
    assert await driver.put_if_absent(entry(names[1], collection=names[0]))

    pages = [page async for page in driver.scan()]

    assert [names] == [(one.collection, one.key) for page in pages for one in page.entries]
    assert [] == await scanned(driver, after=pages[0].cursor)


async def test_through_the_wrapper(store: DynamoDBStore, cheap: Argon2idParams) -> None:
    """A put that the table cannot hold is refused before the store is asked, alone and among others."""
    kv = EnvelopeEncryptionWrapper(key_value=store, secret=SECRET, kdf=cheap)
    await kv.put("fits", {"x": "x" * 300_000}, collection="c")

    with pytest.raises(EntryTooLargeError):
        await kv.put("key", {"x": "x" * 310_000}, collection="c")
    with pytest.raises(EntryTooLargeError):
        await kv.put_many(["small", "key"], [SMALL, TOO_LARGE], collection="c")
    with pytest.raises(ReservedNameError, match="cannot hold"):
        await kv.put("k" * 1025, SMALL, collection="c")
    with pytest.raises(ReservedNameError, match="cannot hold"):
        await kv.get("k", collection="c" * 2049)

    assert [None, None] == await store.get_many(["small", "key"], collection="c")
    await kv.release()


async def test_recode(store: DynamoDBStore, driver: DynamoDBDriver, cheap: Argon2idParams) -> None:
    """A record that would not fit sealed fails alone, in a dry run too, and stays as it is."""
    await store.put("large", {"x": "x" * 350_000}, collection="c")
    await store.put("small", SMALL, collection="c")
    options: dict[str, Any] = {"secret": SECRET, "kdf": cheap, "plaintext": PlaintextRule.SEAL}

    dry = (await migrate(driver, [fernet()], dry_run=True, **options)).report
    done = (await migrate(driver, [fernet()], **options)).report

    assert dry is not None
    assert done is not None
    assert [(1, 1), (1, 1)] == [(report.changed, report.failed) for report in (dry, done)]
    assert "EntryTooLargeError" in done.failures[0].reason
    assert {"x": "x" * 350_000} == await store.get("large", collection="c")


async def test_restore(driver: DynamoDBDriver, tmp_path: Path, cheap: Argon2idParams) -> None:
    """A restore names the entry that does not fit, and restores the others."""
    source = await driver_from_url(f"disk:{tmp_path}/store", create=True)
    vault = await Vault.create(source, secret=SECRET, kdf=cheap)
    await vault.close()
    await put_many_if_absent(source, [entry("a"), entry("large", TOO_LARGE), entry("b")])
    await backup(source, tmp_path / "file")
    await source.close()

    report = await restore(tmp_path / "file", driver)

    assert (3, 1) == (report.restored, report.failed)
    assert [{"n": 0}] * 2 == [(await fetched(driver, key)).value for key in "ab"]


async def test_incomplete(driver: DynamoDBDriver) -> None:
    """A value that no JSON holds is refused as everywhere."""
    with pytest.raises(StoreError):
        await driver.put_if_absent(replace(entry(), value=None))

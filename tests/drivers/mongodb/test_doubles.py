"""Several documents of one key: named wherever they are met, and never guessed which is meant."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from tests.drivers.entries import LARGE, PAST, SMALL, entry, fetched, scanned
from tests.drivers.mongodb.documents import document

from kvseal.backup import backup
from kvseal.drivers.base import Replacement
from kvseal.drivers.mongodb import collections
from kvseal.errors import StoreError

if TYPE_CHECKING:
    from pathlib import Path

    from key_value.aio.stores.mongodb import MongoDBStore

    from kvseal.drivers.mongodb.driver import MongoDBDriver

pytestmark = pytest.mark.filterwarnings("ignore:A configured store is unstable:UserWarning")

SEVERAL = "several documents have this key"


@pytest.fixture
def _small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collections, "PAGE_SIZE", 4)


@pytest.mark.parametrize("others", [1, 9], ids=["on one page", "on several pages"])
@pytest.mark.usefixtures("_small_pages")
async def test_several_documents_of_one_key(driver: MongoDBDriver, coll: Any, others: int) -> None:
    """Each of them is a problem that names the key, in a scan, in its parts and in `get`; the others are not."""
    coll.insert_one(document("twice", value={"object": {"n": 1}}))
    coll.insert_many([document(f"other-{n}") for n in range(others)])
    coll.insert_one(document("twice", value={"object": {"n": 2}}))

    found = await scanned(driver)
    parts = [one for n in range(3) for one in await scanned(driver, partition=(n, 3))]

    for entries in (found, parts):
        assert others + 2 == len(entries)
        broken = [one for one in entries if one.problem]
        assert [("coll", "twice", None)] * 2 == [(one.collection, one.key, one.value) for one in broken]
        assert all(SEVERAL in one.problem for one in broken)
    one = await driver.get("coll", "twice")
    assert one is not None
    assert (None, True) == (one.value, SEVERAL in one.problem)
    assert others + 2 == (await driver.count()).entries


async def test_none_of_several_is_changed(driver: MongoDBDriver, coll: Any) -> None:
    """No operation of a driver replaces, deletes or adds to the documents of such a key."""
    coll.insert_many([document(expires_at=PAST), document(expires_at=PAST)])
    before = list(coll.find())
    (one, other) = await scanned(driver, expired=True)

    assert await driver.put_if_absent(entry()) is False
    assert [False] == list(await driver.put_many_if_absent([entry()]))
    for broken in (one, other, await fetched(driver)):
        with pytest.raises(StoreError, match="cannot be read"):
            await driver.replace_many([Replacement(broken, SMALL)])
        with pytest.raises(StoreError, match="cannot be read"):
            await driver.delete_if_unchanged(broken)
    assert before == list(coll.find())


async def test_a_backup_names_the_key(driver: MongoDBDriver, coll: Any, tmp_path: Path) -> None:
    """A backup has the other entries, and the doubled key as a failure with its name."""
    coll.insert_many([document("twice"), document("once"), document("twice")])

    report = await backup(driver, tmp_path / "file")

    assert (1, 2) == (report.saved, report.failed)
    assert [("coll", "twice")] * 2 == [(one.collection, one.key) for one in report.failures]
    assert all(SEVERAL in one.reason for one in report.failures)


async def test_the_store_puts_between_look_and_insertion(
    driver: MongoDBDriver, coll: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the application makes a document of the same key meanwhile, the driver takes its own away and has put nothing."""
    look = collections.Collections.of_keys

    def looked(self: Any, name: str, keys: Any) -> Any:
        found = look(self, name, keys)
        coll.insert_one(document())
        return found

    monkeypatch.setattr(collections.Collections, "of_keys", looked)

    puts = await driver.put_many_if_absent([entry("other"), entry("key", LARGE)])

    assert [True, False] == list(puts)
    assert {"n": 1} == (await fetched(driver)).value
    assert 2 == (await driver.count()).entries


async def test_a_unique_index(
    driver: MongoDBDriver, store: MongoDBStore, coll: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An operator may make the index on keys unique: then the later of two insertions is refused, and is no error."""
    await store.put("key", SMALL, collection="coll")
    coll.drop_index("key_1")
    coll.create_index("key", unique=True)
    monkeypatch.setattr(collections.Collections, "of_keys", lambda *_: [])

    puts = await driver.put_many_if_absent([entry("other"), entry("key", LARGE)])
    await store.put("other", LARGE, collection="coll")

    assert [True, False] == list(puts)
    assert {"key": SMALL, "other": LARGE} == {one.key: one.value for one in await scanned(driver)}

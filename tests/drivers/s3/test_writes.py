"""Writes of the S3 driver: their conditions, answers that are lost, and what of an object they keep."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
from tests.backends import UNSTABLE
from tests.drivers.entries import FUTURE, PAST, SMALL, clock_is_ahead, entry, fetched
from tests.drivers.s3.answers import answer, between, busy_once, lost_once, sent

from kvseal.concurrency import each_in_thread
from kvseal.drivers import base
from kvseal.drivers.base import Entry, Replacement
from kvseal.drivers.s3 import driver as drivers
from kvseal.errors import StoreError, StoreUnreachableError

if TYPE_CHECKING:
    from key_value.aio.stores.s3 import S3Store
    from tests.drivers.s3.server import S3Server

    from kvseal.drivers.s3.driver import S3Driver

pytestmark = [pytest.mark.servers, pytest.mark.filterwarnings(UNSTABLE)]

NEW = {"new": 1}


async def replaced(driver: S3Driver, found: Entry) -> bool:
    """Replace *found*, and return whether that was done."""
    (done,) = await driver.replace_many([Replacement(found, NEW)])
    return done


class TestLostAnswers:
    """botocore repeats what got no answer, and then the condition does not hold any more."""

    async def test_replace(self, driver: S3Driver) -> None:
        """A replacement that was done unheard is one that was done."""
        await driver.put_if_absent(entry())
        found = await fetched(driver)

        with lost_once(driver, "PutObject"):
            done = await replaced(driver, found)

        assert (True, NEW) == (done, (await fetched(driver)).value)

    async def test_put_if_absent(self, driver: S3Driver) -> None:
        """An entry that was put unheard was put by this call."""
        await driver.delete_if_unchanged(await put(driver))

        with lost_once(driver, "PutObject"):
            assert await driver.put_if_absent(entry(value=NEW)) is True

        assert NEW == (await fetched(driver)).value

    async def test_delete(self, driver: S3Driver) -> None:
        """An entry that was deleted unheard was deleted by this call."""
        found = await put(driver)

        with lost_once(driver, "DeleteObject"):
            assert await driver.delete_if_unchanged(found) is True

        assert await driver.get("coll", "key") is None

    async def test_another_writer_was_faster(self, driver: S3Driver, store: S3Store) -> None:
        """A repeated write whose condition another writer has broken was not done, and says so."""
        found = await put(driver)
        await store.put("key", SMALL, collection="coll")
        repeated = []

        def fail_once(request: Any) -> Any:
            repeated.append(request)
            return answer(request, 503, "SlowDown") if len(repeated) == 1 else None

        with between(driver, "PutObject", fail_once):
            assert await replaced(driver, found) is False

        assert (2, SMALL) == (len(repeated), (await fetched(driver)).value)

    async def test_no_answer_at_all(self, driver: S3Driver) -> None:
        """A server that goes on failing is an error, and not a conflict."""
        found = await put(driver)

        with (
            between(driver, "PutObject", lambda request: answer(request, 400, "ExpiredToken")),
            pytest.raises(StoreUnreachableError, match="ExpiredToken"),
        ):
            await replaced(driver, found)


class TestConditionalRequestConflict:
    """S3 answers with 409 while another conditional write is under way: read again, and decide again."""

    async def test_nothing_came_of_it(self, driver: S3Driver) -> None:
        """If the object is what it was, the write is tried again."""
        found = await put(driver)

        with busy_once(driver, "PutObject"):
            assert await replaced(driver, found) is True

        with busy_once(driver, "DeleteObject"):
            assert await driver.delete_if_unchanged(await fetched(driver)) is True
        with busy_once(driver, "PutObject"):
            assert await driver.put_if_absent(entry()) is True

    async def test_the_other_one_won(self, driver: S3Driver, s3_server: S3Server, s3_bucket: str) -> None:
        """If the object is another one, the write lost."""

        def meanwhile() -> None:
            s3_server.raw.put_object(Bucket=s3_bucket, Key="coll/key", Body=b'{"value": {"other": 1}}')

        found = await put(driver)
        with busy_once(driver, "PutObject", meanwhile):
            assert await replaced(driver, found) is False
        other = await fetched(driver)
        with busy_once(
            driver, "DeleteObject", lambda: s3_server.raw.delete_object(Bucket=s3_bucket, Key="coll/key")
        ):
            assert await driver.delete_if_unchanged(other) is False
        with busy_once(driver, "PutObject", meanwhile):
            assert await driver.put_if_absent(entry()) is False

        assert {"other": 1} == (await fetched(driver)).value

    async def test_for_ever(self, driver: S3Driver) -> None:
        """A server that is busy for ever is an error."""
        found = await put(driver)

        def refuse(request: Any) -> Any:
            return answer(request, 409, "ConditionalRequestConflict")

        with between(driver, "PutObject", refuse), pytest.raises(StoreUnreachableError, match="10 times"):
            await replaced(driver, found)


async def put(driver: S3Driver, key: str = "key", **fields: Any) -> Entry:
    """Put an entry and return what is there."""
    await driver.put_if_absent(entry(key, **fields))
    return await fetched(driver, key)


class TestBatches:
    """What a batch decides before it asks the server."""

    async def test_one_object_twice(self, driver: S3Driver, monkeypatch: pytest.MonkeyPatch) -> None:
        """Of two changes of one object the first is done: they are never asked for at the same time."""
        rounds: list[list[str]] = []

        async def each(function: Any, items: Any) -> Any:
            rounds.append([new.key for _, new in items])
            return await each_in_thread(function, items)

        found, other = await put(driver), await put(driver, key="other")
        monkeypatch.setattr(drivers, "each_in_thread", each)

        done = await driver.replace_many([Replacement(one, NEW) for one in (found, found, other, found)])

        assert [True, False, True, False] == list(done)
        assert [["coll/key", "coll/other"], ["coll/key"], ["coll/key"]] == rounds

    async def test_expired_since_it_was_read(self, driver: S3Driver, monkeypatch: pytest.MonkeyPatch) -> None:
        """An entry that has expired since it was read is neither replaced nor deleted, though it is still there."""
        soon = datetime.now(timezone.utc) + timedelta(hours=1)
        found = await put(driver, expires_at=soon)
        clock_is_ahead(monkeypatch, timedelta(days=1))

        assert await replaced(driver, found) is False
        assert await driver.delete_if_unchanged(found) is False


class TestWhatStays:
    """S3 keeps nothing of the object that a write replaces, so the write says it again."""

    async def test_headers_metadata_and_tags(
        self, driver: S3Driver, s3_server: S3Server, s3_bucket: str
    ) -> None:
        """Headers, the application's own metadata and the tags of an object are those of before."""
        await put(driver, expires_at=FUTURE)
        body = s3_server.raw.get_object(Bucket=s3_bucket, Key="coll/key")["Body"].read()
        headers = {
            "CacheControl": "no-store",
            "ContentDisposition": "inline",
            "ContentEncoding": "identity",
            "ContentLanguage": "de",
            "ContentType": "application/x-own",
            "Metadata": {"created-at": "as it was", "owner": "team"},
        }
        s3_server.raw.put_object(
            Bucket=s3_bucket, Key="coll/key", Body=body, Tagging="a=1&b=x%20y", **headers
        )

        assert await replaced(driver, await fetched(driver))

        there = s3_server.raw.get_object(Bucket=s3_bucket, Key="coll/key")
        tags = s3_server.raw.get_object_tagging(Bucket=s3_bucket, Key="coll/key")["TagSet"]
        assert headers == {name: there[name] for name in headers}
        assert {"a": "1", "b": "x y"} == {tag["Key"]: tag["Value"] for tag in tags}
        assert (NEW, FUTURE) == ((found := await fetched(driver)).value, found.expires_at)

    async def test_storage_class_and_encryption(self, driver: S3Driver) -> None:
        """The class, the key and the encryption that a read names are in the write that follows."""
        await put(driver)
        named = {
            "x-amz-server-side-encryption": "aws:kms",
            "x-amz-server-side-encryption-aws-kms-key-id": "arn:aws:kms:eu-central-1:111122223333:key/1",
            "x-amz-server-side-encryption-bucket-key-enabled": "true",
            "x-amz-storage-class": "STANDARD_IA",
            "x-amz-website-redirect-location": "/elsewhere",
        }
        seen: list[dict[str, Any]] = []

        def name_more(request: Any) -> Any:
            response = sent(driver, request)
            response.headers.update(named)
            return response

        def see(request: Any) -> Any:
            seen.append({name.lower(): text for name, text in request.headers.items()})
            return answer(request, 412, "PreconditionFailed")

        with between(driver, "GetObject", name_more):
            found = await fetched(driver)
        with between(driver, "PutObject", see):
            await replaced(driver, found)

        (headers,) = seen
        assert named == {name: headers[name].decode() for name in named}

    async def test_metadata_follow_the_expiry(
        self, driver: S3Driver, s3_server: S3Server, s3_bucket: str
    ) -> None:
        """The copies of the times in the metadata, which lifecycle tools read, follow the body's."""
        found = await put(driver, expires_at=FUTURE)
        other = datetime.now(timezone.utc) + timedelta(days=1)

        def expiry() -> Any:
            return s3_server.raw.head_object(Bucket=s3_bucket, Key="coll/key")["Metadata"].get("expires-at")

        assert FUTURE.isoformat() == expiry()
        await driver.replace_many([Replacement(found, NEW, other)])
        assert other.isoformat() == expiry()
        await driver.replace_many([Replacement(await fetched(driver), NEW, None)])
        assert expiry() is None

    async def test_what_the_store_writes(
        self, driver: S3Driver, store: S3Store, s3_server: S3Server, s3_bucket: str
    ) -> None:
        """An object that the driver puts has the headers and metadata of one that the store puts."""
        expires_at = datetime.now(timezone.utc) + timedelta(hours=1)
        await store.put("store", SMALL, collection="coll", ttl=3600)
        await driver.put_if_absent(entry("driver", SMALL, expires_at=expires_at))

        one, other = (
            s3_server.raw.head_object(Bucket=s3_bucket, Key=f"coll/{key}") for key in ("store", "driver")
        )
        assert one["ContentType"] == other["ContentType"]
        assert one["Metadata"].keys() == other["Metadata"].keys()
        assert one["ContentLength"] == other["ContentLength"]


class TestRefusals:
    """What a write refuses before it is sent, and what a server's refusal means."""

    async def test_too_long(self, driver: S3Driver, s3_server: S3Server, s3_bucket: str) -> None:
        """An object key beyond S3's limit is an error before anything is written, in a batch for that entry alone."""
        long = entry("k" * 1020)
        with pytest.raises(StoreError, match="has 1,025 bytes"):
            await driver.put_if_absent(long)
        assert driver.place("coll", long.key or "") is None

        assert [] == s3_server.keys(s3_bucket)

    async def test_names_of_another_object(self, driver: S3Driver) -> None:
        """An entry that was given names which are stored elsewhere is not replaced under them."""
        found = await put(driver)
        moved = base.Replacement(
            Entry("coll", "other", SMALL, locator=found.locator, stored=found.stored), NEW
        )

        with pytest.raises(StoreError, match="is not stored in the object 'coll/key'"):
            await driver.replace_many([moved])

    async def test_a_missing_right(self, driver: S3Driver) -> None:
        """A refused write names the right that is missing, and quotes nothing of the value."""
        found = await put(driver)
        with (
            between(driver, "PutObject", lambda request: answer(request, 403, "AccessDenied")),
            pytest.raises(StoreUnreachableError, match="may not do put_object") as raised,
        ):
            await replaced(driver, found)

        assert "IAM" in raised.value.hint

    async def test_over_an_expired_object_that_changed(
        self, driver: S3Driver, s3_server: S3Server, s3_bucket: str
    ) -> None:
        """An expired object that another writer replaces meanwhile is not overwritten."""
        await put_expired(driver)
        live = b'{"value": {"live": 1}}'
        seen: list[Any] = []

        def meanwhile(request: Any) -> Any:
            seen.append(request)
            if len(seen) == 2:
                s3_server.raw.put_object(Bucket=s3_bucket, Key="coll/key", Body=live)
            return None

        with between(driver, "PutObject", meanwhile):
            assert await driver.put_if_absent(entry()) is False

        assert {"live": 1} == (await fetched(driver)).value


async def put_expired(driver: S3Driver) -> None:
    """Put an entry that has expired already."""
    assert await driver.put_if_absent(entry(expires_at=PAST))

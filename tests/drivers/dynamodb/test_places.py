"""URLs, stores, tables and clients, and credentials that no message shows."""

from __future__ import annotations

import asyncio
import os
import traceback
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
from aiobotocore.credentials import AioRefreshableCredentials
from aiobotocore.session import get_session
from botocore import UNSIGNED
from botocore.config import Config
from key_value.aio.stores.dynamodb import DynamoDBStore
from tests.drivers.dynamodb.faults import Faults, refused
from tests.drivers.dynamodb.server import KEYS, REGION, Server
from tests.drivers.entries import SMALL, entry, fetched
from tests.servers import free_port

from kvseal import clock
from kvseal.drivers import driver_for, driver_from_url
from kvseal.drivers.aws import Answer
from kvseal.drivers.dynamodb import driver as module
from kvseal.drivers.dynamodb.driver import DynamoDBDriver
from kvseal.errors import (
    KvsealError,
    StoreError,
    StoreNotFoundError,
    StoreUnreachableError,
    UnsupportedStoreError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.servers,
    pytest.mark.filterwarnings("ignore:A configured store is unstable:UserWarning"),
]

SECRET = "wJalrXUtnFEMI-9d1f"  # The driver must not show it.


@pytest.fixture
def gone(shared_dynamodb: Server) -> Iterator[str]:
    """Yield the name of a table that does not exist; what a test makes of that name is deleted."""
    name = shared_dynamodb.new_name()
    yield name
    if name in shared_dynamodb.client().list_tables()["TableNames"]:
        shared_dynamodb.client().delete_table(TableName=name)


class TestTables:
    """Tables that are there, that are not, and that are something else's."""

    @pytest.mark.usefixtures("table")
    async def test_a_table_is_made_as_the_store_makes_it(self, shared_dynamodb: Server, gone: str) -> None:
        """Without `create` a missing table is not found; with it, it is made like the store's, twice is fine."""
        with pytest.raises(StoreNotFoundError, match=f"no table {gone}"):
            await driver_from_url(shared_dynamodb.url(gone))
        client, theirs = shared_dynamodb.client(), shared_dynamodb.new_name()
        assert gone not in client.list_tables()["TableNames"]

        for _ in range(2):
            made = await driver_from_url(shared_dynamodb.url(gone), create=True)
            await made.close()

        async with DynamoDBStore(table_name=theirs, **shared_dynamodb.settings()):
            pass
        looks = []
        for name in (gone, theirs):
            found = client.describe_table(TableName=name)["Table"]
            live = client.describe_time_to_live(TableName=name)["TimeToLiveDescription"]
            looks.append(
                [
                    found["KeySchema"],
                    found["AttributeDefinitions"],
                    found["BillingModeSummary"]["BillingMode"],
                    live,
                ]
            )
        client.delete_table(TableName=theirs)
        assert looks[0] == looks[1]

    async def test_the_configuration_of_a_table(self, shared_dynamodb: Server, gone: str) -> None:
        """A table that the driver makes for a store is configured as the store would have configured it."""
        stream = {"StreamSpecification": {"StreamEnabled": True, "StreamViewType": "KEYS_ONLY"}}
        driver = driver_for(DynamoDBStore(table_name=gone, table_config=stream, **shared_dynamodb.settings()))

        assert await driver.put_if_absent(entry())

        found = shared_dynamodb.client().describe_table(TableName=gone)["Table"]
        assert stream["StreamSpecification"] == found["StreamSpecification"]
        await driver.close()

    async def test_store_that_makes_no_table(self, shared_dynamodb: Server, gone: str) -> None:
        """Where the store would not make its table, neither does the driver, and it says what to do."""
        driver = driver_for(DynamoDBStore(table_name=gone, auto_create=False, **shared_dynamodb.settings()))

        for ask in (driver.put_if_absent(entry()), driver.get("coll", "key"), driver.purge()):
            with pytest.raises(StoreNotFoundError, match="no table") as caught:
                await ask

        assert "?region=" in caught.value.hint
        assert gone not in shared_dynamodb.client().list_tables()["TableNames"]
        await driver.close()

    async def test_many_make_it_at_once(self, shared_dynamodb: Server, gone: str) -> None:
        """Of many that put the first entry at once, one succeeds, and none fails for the table."""
        drivers = [driver_for(DynamoDBStore(table_name=gone, **shared_dynamodb.settings())) for _ in range(4)]

        done = await asyncio.gather(*(driver.put_if_absent(entry()) for driver in drivers))

        assert 1 == sum(done)
        for driver in drivers:
            await driver.close()

    @pytest.mark.usefixtures("table")
    async def test_a_table_of_something_else(self, shared_dynamodb: Server, gone: str) -> None:
        """A table with another key is refused, in words."""
        shared_dynamodb.client().create_table(
            TableName=gone,
            KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
            AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "N"}],
            BillingMode="PAY_PER_REQUEST",
        )

        for create in (False, True):
            with pytest.raises(UnsupportedStoreError, match="another key"):
                await driver_from_url(shared_dynamodb.url(gone), create=create)

    async def test_a_table_that_is_being_made(
        self, driver: DynamoDBDriver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A table that is not active yet says so."""
        ask = module.AwsClient.ask

        def creating(self: Any, operation: str, **given: Any) -> Any:
            answer = ask(self, operation, **given)
            answer.body["Table"]["TableStatus"] = "CREATING"
            return answer

        monkeypatch.setattr(module.AwsClient, "ask", creating)

        with pytest.raises(StoreUnreachableError, match="is creating"):
            await driver.expect_table()


class TestURLs:
    """What a URL says, and what it must not."""

    async def test_location(self, driver: DynamoDBDriver, shared_dynamodb: Server, table: str) -> None:
        """A driver's location is the URL that leads to it again."""
        assert shared_dynamodb.url(table) == driver.location

    async def test_region_of_the_environment(
        self, monkeypatch: pytest.MonkeyPatch, shared_dynamodb: Server, table: str
    ) -> None:
        """Region and endpoint may come from the environment, as the SDK has it."""
        monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
        monkeypatch.setenv("AWS_REGION", REGION)
        monkeypatch.setenv("AWS_ENDPOINT_URL_DYNAMODB", shared_dynamodb.endpoint)
        driver = await driver_from_url(f"dynamodb://{table}")

        assert await driver.put_if_absent(entry())
        assert f"dynamodb://{table}" == driver.location
        await driver.close()

    @pytest.mark.parametrize(
        "rest",
        [
            "",
            "//",
            "table",
            "//t",
            "//a;drop",
            '//a"b',
            "//user:{secret}@table",
            "//table?password={secret}",
            "//table?aws_secret_access_key={secret}",
            "//table?region=",
            "//table?region=a&region=b",
            "//table?region=a/{secret}",
            "//table?endpoint=localhost:8000",
            "//table?endpoint=http://user:{secret}@localhost",
            "//table?endpoint=http://localhost?{secret}",
            "//table?endpoint=http://[",
            "//table#{secret}",
            "//arn:aws:dynamodb:eu-central-1:1:table/x",
        ],
    )
    async def test_no_url_of_a_table(self, rest: str) -> None:
        """What cannot name a table is refused before anything is asked, and not quoted."""
        with pytest.raises(UnsupportedStoreError) as caught:
            await driver_from_url("dynamodb:" + rest.format(secret=SECRET))

        shown = repr(caught.value) + caught.value.hint + "".join(traceback.format_exception(caught.value))
        assert SECRET not in shown

    def test_an_arn(self) -> None:
        """The ARN of a table in another account is the name of one."""
        arn = "arn:aws:dynamodb:eu-central-1:123456789012:table/sessions"

        assert f"dynamodb://{arn}?region={REGION}" == DynamoDBDriver(module.Reach(REGION), arn).location

    async def test_nothing_listens(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without a service a URL is unreachable, after few attempts."""
        for name, value in (("AWS_ACCESS_KEY_ID", "x"), ("AWS_SECRET_ACCESS_KEY", SECRET)):
            monkeypatch.setenv(name, value)
        url = f"dynamodb://table?region={REGION}&endpoint=http://127.0.0.1:{free_port()}"

        with pytest.raises(StoreUnreachableError, match="cannot be reached") as caught:
            await driver_from_url(url)

        assert "endpoint" in caught.value.hint

    async def test_no_region_and_no_credentials(
        self, monkeypatch: pytest.MonkeyPatch, shared_dynamodb: Server, tmp_path: Any
    ) -> None:
        """A process without a region or without credentials is told which of them, and where they come from."""
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            monkeypatch.delenv(name)
        for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
            monkeypatch.setenv(name, str(tmp_path / "none"))
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")

        with pytest.raises(UnsupportedStoreError, match="no region") as caught:
            await driver_from_url("dynamodb://table")
        assert "region=" in caught.value.hint
        with pytest.raises(StoreUnreachableError, match="no credentials") as refused:
            await driver_from_url(shared_dynamodb.url("table"))
        assert "AWS_PROFILE" in refused.value.hint


class TestClients:
    """A store that was given a client of the application's."""

    async def test_credentials_that_are_renewed(self, shared_dynamodb: Server, table: str) -> None:
        """Credentials that expire are used as they are, and renewed as the application's client renews them."""
        renewed = []

        async def renew() -> dict[str, str]:
            renewed.append(1)
            later = datetime.now(timezone.utc) + timedelta(hours=1)
            return {"access_key": "new", "secret_key": SECRET, "token": "t", "expiry_time": later.isoformat()}

        session = get_session()
        soon = datetime.now(timezone.utc) + timedelta(seconds=1)
        session._credentials = AioRefreshableCredentials("old", SECRET, "t", soon, renew, "test")
        settings = {name: value for name, value in shared_dynamodb.settings().items() if name not in KEYS}
        async with session.create_client("dynamodb", **settings) as client:
            driver = driver_for(DynamoDBStore(table_name=table, client=client))
            faults = Faults.of(driver)
            signed: list[str] = []
            driver._client.client().meta.events.register_first(
                "before-send.dynamodb",
                lambda request, **_: signed.append(str(request.headers["Authorization"])),
            )

            assert await driver.put_if_absent(entry())
            assert SMALL != (await fetched(driver)).value

        assert [1] == renewed
        assert {"PutItem": 1, "GetItem": 1} == faults.requests
        assert all("Credential=new/" in header for header in signed)
        assert SECRET not in repr(driver.__dict__)
        await driver.close()

    @pytest.mark.usefixtures("table")
    async def test_a_client_that_signs_nothing(self, shared_dynamodb: Server) -> None:
        """A client without credentials, and one that is none, are refused."""
        settings = {name: value for name, value in shared_dynamodb.settings().items() if name not in KEYS}
        config = Config(signature_version=UNSIGNED)
        async with get_session().create_client("dynamodb", config=config, **settings) as client:
            with pytest.raises(UnsupportedStoreError, match="signs no"):
                driver_for(DynamoDBStore(table_name="table", client=client))
        store = DynamoDBStore(table_name="table", client=client)
        store._client = object()
        with pytest.raises(UnsupportedStoreError, match="does not say where"):
            driver_for(store)

    async def test_wrong_credentials(self, driver: DynamoDBDriver) -> None:
        """Credentials that the service does not accept are an error of the store, without them."""
        Faults.of(driver).plan("GetItem", refused("UnrecognizedClientException"))

        with pytest.raises(KvsealError, match="does not accept") as caught:
            await driver.get("coll", "key")

        assert isinstance(caught.value, StoreUnreachableError)

    async def test_closed(self, driver: DynamoDBDriver) -> None:
        """A driver that was closed says so."""
        await driver.close()

        with pytest.raises(StoreError, match="closed"):
            await driver.get("coll", "key")

    @pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
    async def test_fork(self, driver: DynamoDBDriver) -> None:
        """A child process uses connections of its own."""
        await driver.put_if_absent(entry())
        ours = driver._client.client()

        def in_a_child() -> int:
            if pid := os.fork():
                return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            code = 1
            try:
                found = asyncio.run(driver.get("coll", "key"))
                code = 0 if found is not None and driver._client.client() is not ours else 2
            finally:
                os._exit(code)

        assert 0 == await asyncio.to_thread(in_a_child)
        assert await driver.get("coll", "key") is not None


class TestTime:
    """The service's clock, by the date of its answers."""

    async def test_to_a_second(self, driver: DynamoDBDriver) -> None:
        """It is the `Date` of an answer, which is less than a second behind; a refusal has one, too."""
        before = datetime.now(timezone.utc)
        found = await driver.store_time()
        after = datetime.now(timezone.utc)

        assert found is not None
        assert before < found.at + timedelta(seconds=found.step)
        assert found.at <= after
        assert found.before <= found.after <= clock.monotonic()

    async def test_an_answer_without_a_date(self, driver: DynamoDBDriver) -> None:
        """Where the answer has no date, the time is not known; without the right to ask, neither."""
        Faults.of(driver).plan("DescribeTable", refused("AccessDeniedException"))

        assert await driver.store_time() is None


class TestPurge:
    """What is left of overwritten values, outside of the table."""

    async def test_what_is_asked(self, driver: DynamoDBDriver) -> None:
        """Nothing is to be done in the table; what this server cannot say is named, and no file holds it."""
        dry, done = await driver.purge(dry_run=True), await driver.purge()

        assert dry == done
        assert done.complete
        assert "nothing" in done.done[0]
        assert any("backups" in line for line in done.left)

    async def test_what_is_left(self, driver: DynamoDBDriver, monkeypatch: pytest.MonkeyPatch) -> None:
        """Recovery to any second, backups, streams, Kinesis and replicas are named, each with what it holds."""
        recovery = {"PointInTimeRecoveryStatus": "ENABLED", "RecoveryPeriodInDays": 7}
        answers: dict[str, Any] = {
            "describe_table": {
                "Table": {
                    "StreamSpecification": {"StreamEnabled": True},
                    "Replicas": [{"RegionName": "us-east-1"}],
                }
            },
            "describe_continuous_backups": {
                "ContinuousBackupsDescription": {"PointInTimeRecoveryDescription": recovery}
            },
            "list_backups": {"BackupSummaries": [{"BackupName": "before-kvseal"}]},
            "describe_kinesis_streaming_destination": {"KinesisDataStreamDestinations": [{"StreamArn": "x"}]},
        }
        monkeypatch.setattr(module.AwsClient, "ask", lambda _, operation, **__: Answer(answers[operation]))

        left = " ".join((await driver.purge()).left)

        for word in ("stream", "us-east-1", "last 7 days", "before-kvseal", "Kinesis", "exports"):
            assert word in left

    async def test_without_rights(self, driver: DynamoDBDriver) -> None:
        """What this process may not ask for is named, and nothing fails."""
        faults = Faults.of(driver)
        for operation in (
            "DescribeTable",
            "DescribeContinuousBackups",
            "ListBackups",
            "DescribeKinesisStreamingDestination",
        ):
            faults.plan(operation, refused("AccessDeniedException"))

        left = (await driver.purge()).left

        assert 3 == sum("could not be asked" in line for line in left)
        assert any("dynamodb:DescribeTable" in line for line in left)

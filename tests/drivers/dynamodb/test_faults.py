"""Lost answers, throttling and missing rights: what a driver does about each, over a real server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from botocore.retries.standard import ExponentialBackoff
from tests.drivers.dynamodb.faults import THROTTLED, Faults, lost, refused, throttling
from tests.drivers.entries import SMALL, entry, fetched

from kvseal.drivers.aws import ATTEMPTS
from kvseal.drivers.base import Replacement
from kvseal.errors import StoreError, StoreNotFoundError, StoreUnreachableError

if TYPE_CHECKING:
    from kvseal.drivers.base import Entry
    from kvseal.drivers.dynamodb.driver import DynamoDBDriver

pytestmark = pytest.mark.servers


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is gained by pauses between attempts that fail by plan."""
    monkeypatch.setattr(ExponentialBackoff, "delay_amount", lambda *_: 0)
    monkeypatch.setattr("kvseal.drivers.dynamodb.swaps._FIRST_PAUSE", 0)


@pytest.fixture
def faults(driver: DynamoDBDriver) -> Faults:
    """Return what stands between driver and server."""
    return Faults.of(driver)


async def put(driver: DynamoDBDriver, count: int) -> list[Entry]:
    """Put entries, and return them as they are read."""
    keys = [f"key-{number}" for number in range(count)]
    for key in keys:
        assert await driver.put_if_absent(entry(key))
    return [await fetched(driver, key) for key in keys]


def changed(entries: list[Entry]) -> list[Replacement]:
    """Return another value for each entry."""
    return [Replacement(one, {"new": number}) for number, one in enumerate(entries)]


async def values(driver: DynamoDBDriver, count: int) -> list[Any]:
    """Return what is there."""
    return [(await fetched(driver, f"key-{number}")).value for number in range(count)]


class TestLostAnswers:
    """An answer that is lost does not turn what was done into a conflict."""

    @pytest.mark.parametrize("count", [1, 3])
    async def test_replace(self, driver: DynamoDBDriver, faults: Faults, count: int) -> None:
        """A repeated replacement recognises the value that it wrote, alone and in a batch."""
        entries = await put(driver, count)
        faults.plan("UpdateItem", lost)
        faults.plan("BatchExecuteStatement", lost)

        assert [True] * count == list(await driver.replace_many(changed(entries)))
        assert [{"new": number} for number in range(count)] == await values(driver, count)
        assert 2 == faults.requests["UpdateItem" if count == 1 else "BatchExecuteStatement"]

    @pytest.mark.parametrize("count", [1, 3])
    async def test_a_conflict_stays_one(self, driver: DynamoDBDriver, faults: Faults, count: int) -> None:
        """After a repetition, too, another value is another writer's."""
        entries = await put(driver, count)
        await driver.replace_many([Replacement(one, SMALL) for one in entries])
        faults.plan("UpdateItem", refused("InternalServerError", 500))
        faults.plan("BatchExecuteStatement", refused("InternalServerError", 500))

        assert [False] * count == list(await driver.replace_many(changed(entries)))
        assert [SMALL] * count == await values(driver, count)

    async def test_the_same_value_of_another_writer(self, driver: DynamoDBDriver) -> None:
        """Without a repetition the same value was written by another one, and that is a conflict."""
        (stale,) = await put(driver, 1)
        await driver.replace_many([Replacement(stale, SMALL)])

        assert [False] == list(await driver.replace_many([Replacement(stale, SMALL)]))

    async def test_one_statement(self, driver: DynamoDBDriver, faults: Faults) -> None:
        """A statement that may have been done, by its own error, is recognised when it is repeated."""
        entries = await put(driver, 2)

        def undecided(request: Any) -> Any:
            lost(request)
            return throttling(0, 1, code="InternalServerError")(request)

        faults.plan("BatchExecuteStatement", undecided)

        assert [True, True] == list(await driver.replace_many(changed(entries)))

    async def test_put(self, driver: DynamoDBDriver, faults: Faults) -> None:
        """A repeated put recognises its own item, and no other."""
        faults.plan("PutItem", lost)
        assert await driver.put_if_absent(entry()) is True

        faults.plan("PutItem", refused("InternalServerError", 500))
        assert await driver.put_if_absent(entry(value=SMALL)) is False

    async def test_delete(self, driver: DynamoDBDriver, faults: Faults) -> None:
        """A repeated deletion that finds nothing was done; one that finds another value was not."""
        one, other = await put(driver, 2)
        faults.plan("DeleteItem", lost)
        assert await driver.delete_if_unchanged(one) is True

        await driver.replace_many([Replacement(other, SMALL)])
        faults.plan("DeleteItem", refused("InternalServerError", 500))
        assert await driver.delete_if_unchanged(other) is False


class TestBatches:
    """Each statement of a batch is decided by itself."""

    async def test_calls(self, driver: DynamoDBDriver, faults: Faults) -> None:
        """Of 52 changes with one name twice, 25 go into a call, and the second of a name into a later one."""
        entries = await put(driver, 51)
        again = Replacement(entries[0], {"new": "again"})

        done = await driver.replace_many([*changed(entries), again])

        sizes = [
            len(body["Statements"]) for operation, body in faults.sent if operation == "BatchExecuteStatement"
        ]
        assert [True] * 51 + [False] == list(done)
        assert ([1, 25, 25], 1) == (sorted(sizes), faults.requests["UpdateItem"])

    async def test_throttled_statements(self, driver: DynamoDBDriver, faults: Faults) -> None:
        """Statements that are throttled are repeated alone, until they are done."""
        entries = await put(driver, 5)
        faults.plan("BatchExecuteStatement", throttling(1, 3), throttling(0))

        assert [True] * 5 == list(await driver.replace_many(changed(entries)))
        calls = [
            body["Statements"] for operation, body in faults.sent if operation == "BatchExecuteStatement"
        ]
        assert [5, 2, 1] == [len(statements) for statements in calls]
        assert [{"new": number} for number in range(5)] == await values(driver, 5)

    async def test_throttled_for_good(self, driver: DynamoDBDriver, faults: Faults) -> None:
        """Statements that are always throttled end in an error that says how to go slower."""
        entries = await put(driver, 2)
        faults.plan("BatchExecuteStatement", *[throttling(0, 1)] * 20)

        with pytest.raises(StoreUnreachableError, match="throttled") as caught:
            await driver.replace_many(changed(entries))

        assert "--rate" in caught.value.hint

    async def test_an_error_of_one_statement(self, driver: DynamoDBDriver, faults: Faults) -> None:
        """What no repetition cures is raised, by its code."""
        entries = await put(driver, 2)
        faults.plan("BatchExecuteStatement", throttling(0, 1, code="ItemCollectionSizeLimitExceeded"))

        with pytest.raises(StoreError, match="ItemCollectionSizeLimitExceeded"):
            await driver.replace_many(changed(entries))


class TestRights:
    """What IAM forbids is done otherwise, or named."""

    @pytest.mark.parametrize("code", ["AccessDeniedException", "UnknownOperationException"])
    async def test_no_partiql(self, driver: DynamoDBDriver, faults: Faults, code: str) -> None:
        """Where PartiQL is forbidden or unknown, changes are single updates, and it is not asked again."""
        entries = await put(driver, 30)
        faults.plan("BatchExecuteStatement", *[refused(code)] * 2)

        assert [True] * 30 == list(await driver.replace_many(changed(entries)))
        assert [False] * 30 == list(await driver.replace_many(changed(entries)))
        assert {"BatchExecuteStatement": 2, "UpdateItem": 60} == {
            name: faults.requests[name] for name in ("BatchExecuteStatement", "UpdateItem")
        }

    async def test_forbidden_statements(self, driver: DynamoDBDriver, faults: Faults) -> None:
        """A refusal of statements one by one is no other: what was done before is not done again."""
        entries = await put(driver, 3)
        faults.plan("BatchExecuteStatement", throttling(0, 1, 2, code="AccessDenied"))

        assert [True] * 3 == list(await driver.replace_many(changed(entries)))

    async def test_the_action_is_named(self, driver: DynamoDBDriver, faults: Faults) -> None:
        """A right that is missing is named as IAM names it, and nothing else of the answer is shown."""
        message = "User: arn:aws:iam::123456789012:user/x is not authorized to perform: dynamodb:GetItem on y"
        faults.plan("GetItem", refused("AccessDeniedException", 400, message))

        with pytest.raises(StoreUnreachableError, match="dynamodb:GetItem") as caught:
            await driver.get("coll", "key")

        assert "123456789012" not in str(caught.value)
        assert "dynamodb:GetItem" in caught.value.hint


class TestThrottling:
    """botocore's standard mode repeats what the table has no capacity for."""

    async def test_it_passes(self, driver: DynamoDBDriver, faults: Faults) -> None:
        """Requests that are throttled a few times are done, and are no conflict."""
        for operation in ("PutItem", "GetItem", "UpdateItem", "Scan"):
            faults.plan(operation, *[refused(THROTTLED)] * 3)
        (one,) = await put(driver, 1)

        assert [True] == list(await driver.replace_many(changed([one])))
        assert 1 == len([page async for page in driver.scan()])

    async def test_it_does_not_pass(self, driver: DynamoDBDriver, faults: Faults) -> None:
        """A table that never has capacity is an error, after so many attempts."""
        faults.plan("GetItem", *[refused(THROTTLED)] * 50)

        with pytest.raises(StoreUnreachableError, match="takes no more requests"):
            await driver.get("coll", "key")

        assert ATTEMPTS == faults.requests["GetItem"]

    async def test_the_table_is_gone(self, driver: DynamoDBDriver, faults: Faults) -> None:
        """A table that was deleted meanwhile is not found, whatever is asked of it."""
        faults.plan("Scan", refused("ResourceNotFoundException"))
        faults.plan("PutItem", refused("ResourceNotFoundException"))

        with pytest.raises(StoreNotFoundError):
            await anext(driver.scan())
        with pytest.raises(StoreNotFoundError):
            await driver.put_if_absent(entry())

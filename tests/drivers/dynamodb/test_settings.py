"""What a driver takes from a store object that has connected to nothing yet; no server is asked."""

from __future__ import annotations

import pytest
from key_value.aio.stores.dynamodb import DynamoDBStore

from kvseal.drivers import driver_for
from kvseal.drivers.dynamodb.driver import DynamoDBDriver

pytestmark = pytest.mark.filterwarnings("ignore:A configured store is unstable:UserWarning")

SECRET = "wJalrXUtnFEMI-9d1f"


def found(**settings: str) -> DynamoDBDriver:
    """Return the driver of a store with these *settings*."""
    driver = driver_for(DynamoDBStore(table_name="sessions", **settings))
    assert isinstance(driver, DynamoDBDriver)
    return driver


def test_all_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Region, endpoint and credentials are those of the store, with every release; none is shown."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "another")
    keys = {"aws_access_key_id": "AKIA1", "aws_secret_access_key": SECRET, "aws_session_token": "token"}
    driver = found(region_name="us-east-2", endpoint_url="http://127.0.0.1:8000", **keys)

    assert driver._client.reach.credentials is not None
    held = driver._client.reach.credentials.get_frozen_credentials()

    assert "dynamodb://sessions?region=us-east-2&endpoint=http://127.0.0.1:8000" == driver.location
    assert ("AKIA1", SECRET, "token") == (held.access_key, held.secret_key, held.token)
    assert SECRET not in repr(driver._client.reach)


def test_no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the store leaves to the SDK's own chain, the driver leaves to it, too."""
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIA2")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    driver = found()

    client = driver._client.client()

    assert driver._client.reach.credentials is None
    assert "eu-west-1" == client.meta.region_name
    assert "AKIA2" == client._request_signer._credentials.access_key

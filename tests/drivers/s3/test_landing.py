"""Where names land in a bucket, on whichever server: no server is asked."""

from __future__ import annotations

import pytest
from key_value.aio.stores.s3 import S3KeySanitizationStrategy, S3Store
from tests.backends import UNSTABLE
from tests.drivers.entries import META_COLLECTION, META_KEY, TRESPASSES

from kvseal.drivers import landing_of
from kvseal.errors import StoreError

pytestmark = pytest.mark.filterwarnings(UNSTABLE)


OTHERS = {"another split", "colon", "nul"}
"""Names that are as much their own as any other on each of these servers."""


def is_let_through(collection: str, key: str) -> bool:
    """Whether a wrapper would let an application write there."""
    landing = landing_of(S3Store(bucket_name="bucket"))
    try:
        assert landing.check_key is not None
        landing.check_key(key)
        return not landing.reaches(collection, META_COLLECTION)
    except StoreError:
        return False


@pytest.mark.parametrize(("collection", "key"), [one for one in TRESPASSES if one.id not in OTHERS])
def test_trespasses(collection: str, key: str) -> None:
    """No way to the vault meta is let through that a server, a proxy or a file system below could take."""
    assert not is_let_through(collection, key)


@pytest.mark.parametrize(
    ("collection", "key"),
    [
        ("clients", "https://host/a/../b"),
        ("a::b", "c"),
        ("coll", "v1.2.3"),
        ("coll", "%2e"),
        ("__vault", "key"),
        ("meta/__vault_meta__", "__dek__"),
    ],
)
def test_usual_names(collection: str, key: str) -> None:
    """Names that stay in their collection are let through."""
    assert is_let_through(collection, key)


def test_places() -> None:
    """Two splits of one object key are one place, and so is what a server makes one slash of."""
    landing = landing_of(S3Store(bucket_name="bucket"))

    assert landing.place("a", "b/c") == landing.place("a/b", "c") == landing.place("a", "b//c")
    assert landing.place("a", "b") != landing.place("a", "c")
    with pytest.raises(StoreError, match="1,025 bytes"):
        landing.place("a", "k" * 1023)


def test_names_that_the_store_cuts() -> None:
    """The place is that of the name which the store makes of it."""
    store = S3Store(bucket_name="bucket", key_sanitization_strategy=S3KeySanitizationStrategy(100))
    landing = landing_of(store)

    assert landing.place("a", "k" * 101) != landing.place("a", "k" * 102)
    assert 102 == len(landing.place("a", "k" * 101)[1])
    assert META_KEY == landing.place(META_COLLECTION, META_KEY)[1].rpartition("/")[2]

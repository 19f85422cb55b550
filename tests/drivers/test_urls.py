"""Store URLs: what leads to which driver, and what the refusals say."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest
from key_value.aio.stores.disk import DiskStore
from key_value.aio.stores.memory import MemoryStore
from key_value.aio.stores.null import NullStore
from key_value.aio.wrappers.prefix_keys import PrefixKeysWrapper
from key_value.aio.wrappers.statistics import StatisticsWrapper
from tests.drivers.contract import DriverContract
from tests.drivers.entries import SMALL, Backend, entry, fetched

from kvseal.drivers import driver_for, driver_from_url, strip_password
from kvseal.drivers.backends import SCHEMES
from kvseal.drivers.factory import OwnedStoreDriver
from kvseal.drivers.memory import MemoryDriver
from kvseal.errors import UnsupportedStoreError

if TYPE_CHECKING:
    from pathlib import Path

FACTORIES = """
from key_value.aio.stores.disk import DiskStore
from key_value.aio.stores.memory import MemoryStore

def make():
    return MemoryStore(default_collection="made")

async def make_async():
    return MemoryStore(default_collection="made async")

def make_disk():
    return DiskStore(directory="made")

def make_nothing():
    return None

class make_class(MemoryStore):
    pass

def needs_more():
    import a_module_that_does_not_exist
"""


@pytest.fixture
def application(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the name of an importable module in the current directory, which is not on the path yet."""
    name = f"application_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(FACTORIES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in {"", str(tmp_path)}])
    return name


class TestPythonURL(DriverContract):
    """Every promise of a driver, over a store that a function of the application made."""

    keeps_expired = False

    @pytest.fixture
    async def backend(self, application: str) -> Backend:
        """Yield a memory store made by its factory."""
        driver = await driver_from_url(f"python:{application}:make")
        assert isinstance(driver, OwnedStoreDriver)
        return Backend(driver.store, driver)


@pytest.mark.parametrize(
    ("factory", "collection"),
    [("make", "made"), ("make_async", "made async"), ("make_class", "default_collection")],
)
async def test_python_factories(application: str, factory: str, collection: str) -> None:
    """A function, a coroutine function and a class make the store, which is found in the current directory."""
    driver = await driver_from_url(f"python:{application}:{factory}")

    assert isinstance(driver, OwnedStoreDriver)
    assert collection == driver.store.default_collection
    await driver.close()


async def test_python_store_is_closed_with_its_driver(application: str) -> None:
    """The store that was made for the driver is closed with it, and what was written stays."""
    driver = await driver_from_url(f"python:{application}:make_disk")
    await driver.put_if_absent(entry())
    await driver.close()
    await driver.close()

    again = DiskStore(directory="made")
    assert {"n": 0} == await again.get("key", collection="coll")
    again._cache.close()


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("", "does not name a factory"),
        ("module", "does not name a factory"),
        ("module:", "does not name a factory"),
        (":make", "does not name a factory"),
        ("module:make()", "does not name a factory"),
        ("a_module_that_does_not_exist:make", "cannot be loaded"),
        ("{application}:mistyped", "cannot be loaded"),
        ("{application}:make_nothing", "returned NoneType"),
    ],
)
async def test_python_mistakes(application: str, location: str, message: str) -> None:
    """A factory that is not there, or makes no store, is named in the refusal."""
    with pytest.raises(UnsupportedStoreError, match=message) as caught:
        await driver_from_url(f"python:{location.format(application=application)}")

    assert caught.value.hint
    assert 2 == caught.value.exit_code


async def test_errors_of_the_factory_are_its_own(application: str) -> None:
    """What goes wrong inside of the application's function is not dressed up as a mistyped URL."""
    with pytest.raises(ModuleNotFoundError):
        await driver_from_url(f"python:{application}:needs_more")


@pytest.mark.parametrize(
    ("url", "message", "hint"),
    [
        ("store", "not the URL of a store", "did you mean disk:store?"),
        ("/var/lib/store", "not the URL of a store", "did you mean disk:/var/lib/store?"),
        ("./a:b", "not the URL of a store", "did you mean disk:./a:b?"),
        ("", "not the URL of a store", "did you mean disk:?"),
        (
            "floppy:a",
            "no driver for floppy: URLs",
            f"known schemes: {', '.join(f'{name}:' for name in sorted(SCHEMES))}",
        ),
        ("memory:", "lives in the process", "python:module:factory"),
        ("memory://", "lives in the process", "python:module:factory"),
        ("disk:~no-user-of-this-name/kv", "no such home directory", "give an absolute path"),
    ],
)
async def test_refused_urls(url: str, message: str, hint: str) -> None:
    """A URL that leads nowhere is refused with what to write instead."""
    with pytest.raises(UnsupportedStoreError, match=message) as caught:
        await driver_from_url(url)

    assert hint in caught.value.hint
    assert 2 == caught.value.exit_code


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://user:secret@host:6379/0", "redis://user:***@host:6379/0"),
        ("redis://:secret@host", "redis://:***@host"),
        ("redis://:se?c#r@et@host", "redis://:***@host"),
        ("postgresql://u:se@cr/et@host/db", "postgresql://u:***@host/db"),
        (
            "postgresql://host/db?user=u&password=secret&ssl=1",
            "postgresql://host/db?user=u&password=***&ssl=1",
        ),
        (
            "mongodb://u:p@h/?tls=true&tlsCertificateKeyFilePassword=secret&authMechanismProperties=A:secret&w=1",
            "mongodb://u:***@h/?tls=true&tlsCertificateKeyFilePassword=***&authMechanismProperties=***&w=1",
        ),
        ("redis://host:6379/0", "redis://host:6379/0"),
        ("disk:/var/lib/store", "disk:/var/lib/store"),
        ("disk:/a@b:c", "disk:/a@b:c"),
        ("u:secret@host", "u:secret@host"),
    ],
)
def test_strip_password(url: str, shown: str) -> None:
    """No password of a URL gets into a message; everything else does."""
    assert shown == strip_password(url)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "crafted",
    [
        "://:" * 500_000,
        "://u:p@" + "://:" * 500_000,
        "://" + "?token=" * 500_000,
        "://?" + "passwor" * 300_000,
    ],
)
def test_a_crafted_text_takes_no_quadratic_time(crafted: str) -> None:
    """2 MB in which a password begins everywhere: in quadratic time that would be many minutes."""
    assert "u:p@" not in strip_password(crafted)


async def test_refusals_do_not_show_passwords() -> None:
    """Neither message nor hint of a refused URL has the password in it."""
    for url in ("floppy://user:hunter2@host", "7://user:hunter2@host"):
        with pytest.raises(UnsupportedStoreError) as caught:
            await driver_from_url(url)

        assert "hunter2" not in f"{caught.value} {caught.value.hint}"


async def test_driver_of_a_wrapped_store() -> None:
    """The driver serves the base store at the end of the chain."""
    store = MemoryStore(default_collection="base")
    driver = driver_for(StatisticsWrapper(PrefixKeysWrapper(store, "p")))
    await store.put("key", SMALL)

    assert MemoryDriver is type(driver)
    assert SMALL == (await fetched(driver, collection="base")).value


@pytest.mark.filterwarnings("ignore:A configured store is unstable")
def test_store_without_a_driver() -> None:
    """A store without a driver is named, with the way out."""
    with pytest.raises(UnsupportedStoreError, match="NullStore") as caught:
        driver_for(NullStore())

    assert "meta_store=" in caught.value.hint

"""No secret, key or plaintext value shows in a repr, a message, a traceback, a log, a pickle or the store."""

from __future__ import annotations

import asyncio
import base64
import copy
import logging
import pickle
from traceback import TracebackException
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.fernet import Fernet
from tests.bad_input import CASES, ENVIRONMENT, PLAINTEXT, RIGHT
from tests.fakes import dump
from tests.wrapping import wrapped

from kvseal import Argon2idParams, EnvelopeEncryptionWrapper, Secret, Vault
from kvseal.drivers import driver_for
from kvseal.envelope.stored import from_stored, to_stored
from kvseal.errors import KvsealError
from kvseal.keys.keyring import LegacyKey
from kvseal.keys.rootkey import RootKey
from kvseal.legacy import FERNET

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from key_value.aio.stores.memory import MemoryStore

SECRETS = [
    RIGHT.reveal(),
    b"the next secret of this vault",
    b"hunter2",
    ENVIRONMENT["KVSEAL_MISTYPED"].encode(),
]
LEGACY = LegacyKey(FERNET, bytes(range(100, 132)))


class Watch:
    """Every secret, key and plaintext of one test, and the check that a text shows none of them."""

    def __init__(self) -> None:
        self.hidden: set[bytes] = {*SECRETS, PLAINTEXT.encode(), LEGACY.key}

    def assert_unseen(self, *texts: object) -> None:
        """No form of anything hidden is in any of *texts*."""
        for text in texts:
            shown = text.decode("latin-1") if isinstance(text, bytes) else str(text)
            assert [] == [raw for raw in self.hidden for form in _forms(raw) if form in shown], shown


def _forms(raw: bytes) -> set[str]:
    return {
        raw.decode("latin-1"),
        repr(raw)[2:-1],
        raw.hex(),
        base64.b64encode(raw).decode().rstrip("="),
        base64.urlsafe_b64encode(raw).decode().rstrip("="),
        str(list(raw))[1:-1],
    }


def everything_about(error: BaseException) -> list[str]:
    """Return what a log or an error tracker would show of *error* and of all that led to it."""
    texts = ["".join(TracebackException.from_exception(error, capture_locals=False).format(chain=True))]
    seen: BaseException | None = error
    while seen is not None:
        texts += [str(seen), repr(seen), repr(seen.args), repr(vars(seen))]
        seen = seen.__cause__ or seen.__context__
    return texts


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    """Return a watch that learns every root key and DEK of the test as it is made."""
    watch = Watch()
    create, wrap_dek = RootKey.__init__, RootKey.wrap_dek

    def noting_root(self: RootKey, key: bytes, vault_id: bytes) -> None:
        watch.hidden.add(key)
        create(self, key, vault_id)

    def noting_dek(self: RootKey, dek: bytes, number: int) -> Any:
        watch.hidden.add(dek)
        return wrap_dek(self, dek, number)

    monkeypatch.setattr(RootKey, "__init__", noting_root)
    monkeypatch.setattr(RootKey, "wrap_dek", noting_dek)
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    return watch


@pytest.fixture(autouse=True)
def _everything_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with caplog.at_level(logging.DEBUG):
        yield


async def busy_vault(store: MemoryStore, cheap: Argon2idParams) -> tuple[Vault, EnvelopeEncryptionWrapper]:
    """Return a vault and wrapper that have done everything once."""
    vault = await Vault.create(store, secret=RIGHT, kdf=cheap)
    kv = wrapped(vault)
    await kv.put("k", {"v": PLAINTEXT}, ttl=1000)
    await vault.rotate_dek()
    await vault.read_legacy_with([LEGACY])
    key = Fernet(base64.urlsafe_b64encode(LEGACY.key))
    token = key.encrypt(b'{"v": "%s"}' % PLAINTEXT.encode())
    old = {"__encrypted_data__": base64.b64encode(token).decode(), "__encryption_version__": 1}
    await store.put("old", old)
    assert [{"v": PLAINTEXT}] * 2 == await kv.get_many(["k", "old"])
    await vault.rotate(new_secret=Secret(SECRETS[1]))
    await vault.refresh()
    return vault, kv


async def test_nothing_shows_of_what_works(
    watch: Watch, store: MemoryStore, cheap: Argon2idParams, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither reprs nor logs nor the status of a vault in full use, nor the bytes that it stores."""
    vault, kv = await busy_vault(store, cheap)
    root = vault.way_in().root

    parts = [
        vault,
        kv,
        vault.keyring,
        root,
        RIGHT,
        vault._meta,
        vault._meta.slots[0],
        vault.keyring.codecs[""],
    ]
    parts += [LEGACY, vault.keyring.legacy, vault.status(), vault.status().as_dict(), vars(vault), vars(kv)]
    texts = [show(part) for part in parts for show in (repr, str, "{}".format)]

    assert 7 <= len(watch.hidden)
    watch.assert_unseen(*texts, caplog.text, dump(store))


async def test_the_watch_sees(watch: Watch, store: MemoryStore, cheap: Argon2idParams) -> None:
    """The check is worth something: it finds a key, a secret and a plaintext in each of their forms."""
    vault, _ = await busy_vault(store, cheap)
    root = vault.way_in().root.reveal()

    for text in (
        f"key {root!r}",
        root.hex(),
        base64.b64encode(root),
        {"v": PLAINTEXT},
        RIGHT.reveal(),
        [*root],
    ):
        with pytest.raises(AssertionError):
            watch.assert_unseen(text)


async def test_nothing_is_pickled_or_copied(watch: Watch, store: MemoryStore, cheap: Argon2idParams) -> None:
    """What holds a key refuses; what does not may be pickled, and shows nothing."""
    vault, kv = await busy_vault(store, cheap)
    root, keyring = vault.way_in().root, vault.keyring

    for part in (RIGHT, root, keyring, vault, kv, keyring.codecs[""]):
        for attempt in (pickle.dumps, copy.deepcopy):
            with pytest.raises((TypeError, pickle.PicklingError, AttributeError)):
                attempt(part)
    for part in (RIGHT, root, keyring):
        with pytest.raises(TypeError):
            copy.copy(part)
    watch.assert_unseen(pickle.dumps(vault.status()), pickle.dumps(vault._meta.slots))


@pytest.mark.parametrize("name", CASES)
async def test_nothing_shows_of_bad_input(
    name: str, watch: Watch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Message, traceback, cause, context and log of every refused input."""
    case = CASES[name]
    store = await case.prepare(tmp_path)

    with pytest.raises(KvsealError) as caught:
        await case.act(store)

    watch.assert_unseen(*everything_about(caught.value), caplog.text)
    if hasattr(store, "_cache") and hasattr(store._cache, "close"):
        store._cache.close()


def flipped(at: int) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Return what flips a bit of byte *at* of a stored record."""

    def flip(stored: dict[str, Any]) -> dict[str, Any]:
        record = bytearray(from_stored(stored))
        record[at] ^= 1
        return to_stored(bytes(record))

    return flip


BROKEN: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "plaintext": lambda _: {"v": PLAINTEXT},
    "plaintext beside a record": lambda stored: {**stored, "v": PLAINTEXT},
    "plaintext as the record": lambda _: {"__encrypted_data__": PLAINTEXT, "__encryption_version__": 2},
    "plaintext as a legacy record": lambda _: {"__encrypted_data__": PLAINTEXT, "__encryption_version__": 1},
    "version": flipped(0),
    "suite": flipped(1),
    "encoding": flipped(2),
    "reserved": flipped(3),
    "DEK": flipped(4),
    "nonce": flipped(8),
    "nonce, its second half": flipped(31),
    "expiry": flipped(39),
    "ciphertext": flipped(40),
    "tag": flipped(-1),
}


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("raising", [True, False], ids=["raising", "logging"])
async def test_nothing_shows_of_a_broken_record(
    name: str,
    raising: bool,
    watch: Watch,
    store: MemoryStore,
    cheap: Argon2idParams,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Neither in the error of one read nor of many, nor in the log where errors read as missing."""
    vault = await Vault.create(store, secret=RIGHT, kdf=cheap)
    await vault.read_legacy_with([LEGACY])
    kv = wrapped(vault, raise_on_decryption_error=raising)
    await kv.put("k", {"v": PLAINTEXT}, ttl=1000)
    stored = await store.get("k")
    assert stored is not None
    await store.put("k", BROKEN[name](stored))

    for read in (kv.get, kv.ttl, lambda key: kv.get_many([key]), lambda key: kv.ttl_many([key])):
        if raising:
            with pytest.raises(KvsealError) as caught:
                await read("k")
            watch.assert_unseen(*everything_about(caught.value))
        else:
            await read("k")

    assert raising or 4 == sum(kv.unreadable.values())
    watch.assert_unseen(caplog.text)


UNSEALABLE: dict[str, Any] = {
    "a number as a key": {"v": PLAINTEXT, 1: PLAINTEXT},
    "bytes": {"v": PLAINTEXT.encode()},
    "an object": {"v": type("Odd", (), {"__repr__": lambda _: PLAINTEXT})()},
    "a set": {"v": {PLAINTEXT}},
    "a tuple": {"v": [(PLAINTEXT,)]},
    "a surrogate and a set": {"v": PLAINTEXT + "\ud800", "w": {1}},
    "a plaintext as a key that is no text": {"v": {PLAINTEXT.encode(): 1}},
}


@pytest.mark.parametrize("name", UNSEALABLE)
async def test_nothing_shows_of_an_unsealable_value(
    name: str, watch: Watch, store: MemoryStore, cheap: Argon2idParams, caplog: pytest.LogCaptureFixture
) -> None:
    """The error says where in the value and of which type, never what."""
    kv = wrapped(await Vault.create(store, secret=RIGHT, kdf=cheap))

    for put in (kv.put("k", UNSEALABLE[name]), kv.put_many(["k"], [UNSEALABLE[name]])):
        with pytest.raises(KvsealError) as caught:
            await put
        watch.assert_unseen(*everything_about(caught.value))

    watch.assert_unseen(caplog.text)


async def test_nothing_shows_in_what_a_driver_reads(
    watch: Watch, store: MemoryStore, cheap: Argon2idParams
) -> None:
    """Entries of a scan hide their values, sealed or not, from logs that print them."""
    await store.put("plain", {"v": PLAINTEXT})
    await Vault.create(store, secret=RIGHT, kdf=cheap)

    pages = [page async for page in driver_for(store).scan()]

    assert 2 == sum(len(page.entries) for page in pages)
    watch.assert_unseen(repr(pages))


@pytest.mark.parametrize("text", ["hunter2", "hunter2:", "pass:hunter2"])
async def test_nothing_shows_of_a_mistaken_reference(
    text: str, watch: Watch, store: MemoryStore, caplog: pytest.LogCaptureFixture
) -> None:
    """A password where a reference belongs is not repeated, wherever it is given."""
    for attempt in (
        lambda: EnvelopeEncryptionWrapper(key_value=store, secret=text),
        lambda: asyncio.run(Vault.create(store, secret=text)),
        lambda: asyncio.run(Vault.open_or_create(store, secret=text)),
    ):
        with pytest.raises(KvsealError) as caught:
            await asyncio.to_thread(attempt)
        watch.assert_unseen(*everything_about(caught.value))
    watch.assert_unseen(caplog.text)

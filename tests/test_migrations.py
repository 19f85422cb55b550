"""Every stored format that was ever read is still read: the frozen vaults in `migrations/`, one by one."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from key_value.aio.stores.disk import DiskStore
from key_value.aio.stores.filetree import (
    FileTreeStore,
    FileTreeV1CollectionSanitizationStrategy,
    FileTreeV1KeySanitizationStrategy,
)
from migrations.freezing import CHECKSUMS, checksums
from tests.recoding.worlds import adds_up

from kvseal import EnvelopeEncryptionWrapper, Vault
from kvseal.cli.migration.codecs import NAMES, codec_of
from kvseal.cli.migration.recipe import (
    AuthsomeKeys,
    CodecKeys,
    FastMCPKeys,
    FernetKeys,
    Recipe,
    read_recipe,
)
from kvseal.cli.settings import Settings
from kvseal.drivers import driver_from_url
from kvseal.drivers.manifest import Manifest, NamedDriver
from kvseal.envelope.record import Header
from kvseal.envelope.stored import from_stored, is_sealed
from kvseal.errors import RecordError
from kvseal.expiry import milliseconds
from kvseal.keys.keyring import LegacyKey
from kvseal.keys.meta import META_COLLECTION as META
from kvseal.legacy import FERNET, FastMCPCodec, FernetCodec
from kvseal.legacy.authsome_keys import read_master_key_file, read_master_secret
from kvseal.legacy.fastmcp import key_of_client_secret, key_of_text_signing_key
from kvseal.legacy.fernet import parse_key
from kvseal.legacy.fernet_keys import UPSTREAM, derive_keys, parse_keys
from kvseal.recoding import PlaintextRule, import_keys, migrate, take_over_authsome, verify
from kvseal.secrets.key_file import read_key_file
from kvseal.secrets.sources import resolve

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from kvseal.drivers.base import Driver, Entry
    from kvseal.legacy import LegacyCodec
    from kvseal.recoding import Report

ROOT = Path(__file__).parent.parent / "migrations"
FOLDERS = sorted(path.name for path in ROOT.iterdir() if path.is_dir() and path.name[0].isdigit())
FILES = {"README.md", "recipe.toml", "make.py", "vault", "keys", "expected.jsonl"}

SHELL = re.compile(r"^```(?:sh|console)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

Names = tuple[str | None, str | None]
Times = tuple[datetime | None, datetime | None]


@dataclass(frozen=True)
class Expected:
    """One line of `expected.jsonl`; `text` is the value as JSON, because NaN is not equal to itself."""

    names: Names
    text: str | None
    created_at: datetime | None
    expires_at: datetime | None
    skipped: bool

    @property
    def is_sealed(self) -> bool:
        """Whether the entry is a sealed record in the end: it opens, and its name is known."""
        return self.text is not None and None not in self.names

    @property
    def is_lost(self) -> bool:
        """Whether no key opens the entry, or nothing proves its name."""
        return not self.is_sealed and not self.skipped


@dataclass(frozen=True)
class Work:
    """A thawed vault: its recipe, and the drivers of the stores that this names."""

    recipe: Recipe
    source: Driver
    to: Driver | None
    meta: Driver | None

    @property
    def target(self) -> Driver:
        """Where the sealed records are to be."""
        return self.to or self.source

    @property
    def opening(self) -> dict[str, Any]:
        """How `migrate` reaches or makes the vault."""
        kdf = {} if self.recipe.target.argon2 is None else {"kdf": self.recipe.target.argon2}
        return {"secret": self.recipe.target.secret, "meta_store": self.meta, **kdf}

    @property
    def plaintext(self) -> PlaintextRule:
        """What the recipe wants done with plaintext."""
        return self.recipe.policy.plaintext or PlaintextRule.REFUSE


def text_of(value: Any) -> str:
    """Return *value* as JSON whose keys are sorted, as every store of plaintext sorts them."""
    return json.dumps(value, sort_keys=True)


def moment(text: str | None) -> datetime | None:
    """Return the time that *text* says, if it says one."""
    return None if text is None else datetime.fromisoformat(text)


def expectations(folder: str) -> list[Expected]:
    """Return what the vault in *folder* must open to."""
    found = []
    for line in (ROOT / folder / "expected.jsonl").read_text(encoding="utf-8").splitlines():
        fields = json.loads(line)
        # Every line says one of the three.
        assert 1 == sum(("value" in fields, fields.get("opens") is False, fields.get("skipped") is True))
        found.append(
            Expected(
                (fields["collection"], fields["key"]),
                text_of(fields["value"]) if "value" in fields else None,
                moment(fields.get("created_at")),
                moment(fields.get("expires_at")),
                skipped="skipped" in fields,
            )
        )
    return found


def thawed(folder: str, tmp_path: Path) -> Path:
    """Return a copy of *folder* as it lay on the machine of its makers: modes and paths are lost in git."""
    copy = tmp_path / folder
    shutil.copytree(ROOT / folder, copy)
    (copy / "recipe.toml").chmod(0o600)
    for path in (copy / "keys").iterdir():
        path.chmod(0o600)
    for path in copy.glob("vault/**/*-info.json"):
        info = json.loads(path.read_text(encoding="utf-8"))
        info["directory"] = str(path.parent / Path(info["directory"]).name)
        path.write_text(json.dumps(info), encoding="utf-8")
    return copy


async def work_on(copy: Path, stack: AsyncExitStack) -> Work:
    """Open what the recipe in *copy* names."""

    async def opened(url: str | None, *, create: bool) -> Driver | None:
        if url is None:
            return None
        driver = await driver_from_url(url, create=create)
        stack.push_async_callback(driver.close)
        return driver

    recipe = read_recipe(copy / "recipe.toml")
    create = bool(recipe.target.create)
    source = await opened(recipe.source.store, create=False)
    assert source is not None
    if recipe.source.manifest is not None:
        source = NamedDriver(source, Manifest.checked(recipe.source.manifest))
    to = await opened(recipe.target.store, create=create)
    return Work(recipe, source, to, await opened(recipe.target.meta_store, create=create))


def store_of(url: str) -> Any:
    """Return the store object that an application has at *url*."""
    scheme, _, location = url.partition(":")
    path, _, options = location.partition("?")
    if scheme == "disk":
        return DiskStore(directory=path)
    strategies: dict[str, Any] = {}
    if options == "names=v1":
        strategies["key_sanitization_strategy"] = FileTreeV1KeySanitizationStrategy(Path(path))
        strategies["collection_sanitization_strategy"] = FileTreeV1CollectionSanitizationStrategy(Path(path))
    return FileTreeStore(data_directory=path, **strategies)


async def application(recipe: Recipe, stack: AsyncExitStack) -> EnvelopeEncryptionWrapper:
    """Return what the application has once it is deployed with kvseal: real store objects and the secret."""

    def opened(url: str) -> Any:
        store = store_of(url)
        if hasattr(store, "close"):
            stack.push_async_callback(store.close)
        return store

    url = recipe.target.store or recipe.source.store
    assert url is not None
    meta = None if recipe.target.meta_store is None else opened(recipe.target.meta_store)
    return EnvelopeEncryptionWrapper(opened(url), secret=recipe.target.secret, meta_store=meta, create=False)


async def entries_of(driver: Driver) -> list[Entry]:
    """Return every entry but the vault meta."""
    found = [entry async for page in driver.scan() for entry in page.entries]
    return [entry for entry in found if entry.collection != META]


async def recoded(work: Work, legacy: Sequence[LegacyCodec] = (), **more: Any) -> Report:
    """Migrate what *legacy* opens as the recipe says."""
    done = await migrate(
        work.source,
        legacy,
        to=work.to,
        plaintext=work.plaintext,
        rate=work.recipe.run.rate,
        finalize=bool(work.recipe.policy.finalize),
        **work.opening,
        **more,
    )
    assert done.report is not None
    return done.report


def read(reference: str) -> bytes:
    """Return the secret that *reference* points at."""
    return resolve(reference).reveal()


def whole(reference: str) -> bytes:
    """Return what the file at *reference* holds, with its last line break."""
    return read_key_file(Path(reference.removeprefix("file:")))


def fernet_keys(keys: FernetKeys) -> list[bytes]:
    """Return the Fernet keys of a recipe, in order."""
    found = [key for reference in keys.keys for key in parse_keys(whole(reference))]
    if keys.source_material is not None:
        salt = None if keys.salt is None else whole(keys.salt)
        encodings = (keys.source_material_encoding, keys.salt_encoding)
        found += derive_keys(keys.kdf or UPSTREAM, whole(keys.source_material), salt, encodings=encodings)
    return found


async def from_fernet(work: Work) -> Report:
    """Migrate records of py-key-value's own wrapper."""
    assert isinstance(work.recipe.source.keys, FernetKeys)
    return await recoded(work, [FernetCodec(fernet_keys(work.recipe.source.keys))])


async def from_a_codec(work: Work) -> Report:
    """Migrate what an application encrypted by hand."""
    keys, settings = work.recipe.source.keys, Settings(no_input=True)
    assert isinstance(keys, CodecKeys)
    return await recoded(work, [await codec_of(work.recipe.source.format, keys, settings)])


async def from_plaintext(work: Work) -> Report:
    """Seal what nobody had encrypted."""
    return await recoded(work)


async def from_fastmcp(work: Work) -> Report:
    """Migrate FastMCP's own stores."""
    keys = work.recipe.source.keys
    assert isinstance(keys, FastMCPKeys)
    if keys.client_secret is not None:
        key = key_of_client_secret(read(keys.client_secret))
    elif keys.signing_key is not None:
        key = key_of_text_signing_key(read(keys.signing_key))
    else:
        assert keys.encryption_key is not None
        key = read(keys.encryption_key)
    return await recoded(work, [FastMCPCodec([parse_key(key)], server_urls=keys.server_urls)])


async def from_authsome(work: Work) -> Report:
    """Migrate authsome's store, whose keys the new vault adopts."""
    keys = work.recipe.source.keys
    assert isinstance(keys, AuthsomeKeys)
    if keys.key_file is not None:
        master = read_master_key_file(read_key_file(keys.key_file))
    else:
        assert keys.secret is not None
        master = read_master_secret(read(keys.secret))
    takeover = await take_over_authsome(work.source, [master])
    return await recoded(work, takeover.legacy, leaves=takeover.leaves, adopts=takeover.adopts)


async def from_kvseal(work: Work) -> Report:
    """Verify a vault of kvseal's own: there is nothing to migrate."""
    vault = await Vault.open(work.source, secret=work.recipe.target.secret, meta_store=work.meta)
    report = await verify(work.source, vault)
    await vault.close()
    return report


MIGRATIONS: dict[str, Callable[[Work], Awaitable[Report]]] = {
    "fernet": from_fernet,
    "plaintext": from_plaintext,
    "fastmcp": from_fastmcp,
    "authsome": from_authsome,
    "kvseal": from_kvseal,
    **dict.fromkeys(NAMES, from_a_codec),
}
"""By the format that a recipe names."""


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    """Yield a stack that closes what a test has opened."""
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture(params=FOLDERS)
def folder(request: pytest.FixtureRequest) -> str:
    """Return the name of every folder in turn."""
    name: str = request.param
    return name


async def test_migration(folder: str, tmp_path: Path, stack: AsyncExitStack) -> None:
    """A frozen vault opens to exactly what was put into it, with its times; the rest is untouched and named."""
    copy, expected = thawed(folder, tmp_path), expectations(folder)
    opens = {e.names: e for e in expected if e.is_sealed}
    work = await work_on(copy, stack)
    before = {entry.locator: entry.stored for entry in await entries_of(work.source)}
    times = await times_of(work.source, opens)

    report = await MIGRATIONS[work.recipe.source.format](work)

    lost = [e.names for e in expected if e.is_lost]
    assert adds_up(report)
    assert (len(expected), len(opens), len(lost)) == (
        report.scanned,
        report.changed + report.already,
        report.failed,
    )
    assert report.exit_code == (3 if lost else 0)
    assert sorted(lost, key=str) == sorted(((f.collection, f.key) for f in report.failures), key=str)
    await check_untouched(work, before, expected)
    assert times == await times_of(work.target, opens)
    assert_times(opens, times)
    await check_sealed_expiries(work, times)
    await check_values(await application(work.recipe, stack), opens)


async def check_untouched(work: Work, before: dict[Any, bytes], expected: list[Expected]) -> None:
    """Check that what is not sealed lies where it lay, byte for byte, and that nothing has come or gone."""
    source = await entries_of(work.source)
    unsealed = {entry.locator: entry.stored for entry in source if not is_sealed(entry.value or {})}

    if work.to is None:
        assert len([e for e in expected if not e.is_sealed]) == len(unsealed)
        assert len(expected) == len(source)
        assert {locator: before[locator] for locator in unsealed} == unsealed
    else:
        assert before == unsealed
        assert len([e for e in expected if e.is_sealed]) == len(await entries_of(work.to))


async def times_of(driver: Driver, opens: dict[Names, Expected]) -> dict[Names, Times]:
    """Return creation time and expiry of each entry that opens, as it lies in the store."""
    found = {}
    for collection, key in opens:
        entry = await driver.get(collection or "", key or "")
        assert entry is not None
        found[collection, key] = (entry.created_at, entry.expires_at)
    return found


def assert_times(opens: dict[Names, Expected], times: dict[Names, Times]) -> None:
    """Check the times against those that the folder says, where it says any."""
    said = {names: (e.created_at, e.expires_at) for names, e in opens.items() if e.created_at is not None}

    assert said == {names: times[names] for names in said}


async def check_sealed_expiries(work: Work, times: dict[Names, Times]) -> None:
    """Check that the sealed expiry is the entry's own."""
    for (collection, key), (_, expires_at) in times.items():
        entry = await work.target.get(collection or "", key or "")
        assert entry is not None
        assert entry.value is not None
        sealed = Header.parse(from_stored(entry.value)).expires_at
        if expires_at is None or work.recipe.source.format == "kvseal":
            # What kvseal itself wrote has the expiry of its put, a moment before that of the store.
            assert (expires_at is None) == (sealed is None)
        else:
            assert milliseconds(expires_at) == sealed


async def check_values(kv: EnvelopeEncryptionWrapper, opens: dict[Names, Expected]) -> None:
    """Check that the application reads each value under its names."""
    for (collection, key), expected in opens.items():
        assert expected.text == text_of(await kv.get(key or "", collection=collection))


@pytest.mark.exhaustive
async def test_lost_and_skipped_are_not_served(folder: str, tmp_path: Path, stack: AsyncExitStack) -> None:
    """What was not sealed is an error for an application that reads sealed records alone, and no value."""
    work = await work_on(thawed(folder, tmp_path), stack)
    await MIGRATIONS[work.recipe.source.format](work)
    kv = await application(work.recipe, stack)

    for expected in expectations(folder):
        collection, key = expected.names
        if expected.is_sealed or key is None:
            continue
        if work.to is None:
            with pytest.raises(RecordError):
                await kv.get(key, collection=collection)
        else:
            assert None is await kv.get(key, collection=collection)


@pytest.mark.exhaustive
async def test_second_run(folder: str, tmp_path: Path, stack: AsyncExitStack) -> None:
    """The same recipe run again finds everything done and changes nothing."""
    work = await work_on(thawed(folder, tmp_path), stack)
    first = await MIGRATIONS[work.recipe.source.format](work)
    stored = [(entry.locator, entry.stored) for entry in await entries_of(work.target)]

    again = await MIGRATIONS[work.recipe.source.format](work)

    assert (0, first.changed + first.already) == (again.changed, again.already)
    assert (first.skipped, first.failed) == (again.skipped, again.failed)
    assert stored == [(entry.locator, entry.stored) for entry in await entries_of(work.target)]


@pytest.mark.parametrize(
    ("folder", "collection", "key"),
    [("0001-fernet-0.2.7", "tenants", "a::b"), ("0002-fernet-0.2.8", "tenants::a", "b")],
)
@pytest.mark.exhaustive
async def test_ambiguous_names_are_sealed_when_they_are_read(
    folder: str, collection: str, key: str, tmp_path: Path, stack: AsyncExitStack
) -> None:
    """An old entry whose names no scan can tell is sealed as soon as the application asks for it by them."""
    work = await work_on(thawed(folder, tmp_path), stack)
    assert isinstance(work.recipe.source.keys, FernetKeys)
    keys = fernet_keys(work.recipe.source.keys)
    meta = work.meta or await driver_from_url(f"disk:{tmp_path / 'meta'}", create=True)
    stack.push_async_callback(meta.close)
    opening = {**work.opening, "meta_store": meta}
    held = [LegacyKey(FERNET, one) for one in keys]
    await import_keys(work.source, held, plaintext=PlaintextRule.SKIP, **opening)
    store = store_of(work.recipe.source.store or "")
    stack.push_async_callback(store.close)
    kv = EnvelopeEncryptionWrapper(store, secret=work.recipe.target.secret, meta_store=meta, create=False)
    assert 1 == sum(entry.key is None for entry in await entries_of(work.source))

    value = await kv.get(key, collection=collection)

    assert {"who": "can tell?"} == value
    entries = {(entry.collection, entry.key): entry for entry in await entries_of(work.source)}
    assert (None, None) not in entries
    assert is_sealed(entries[collection, key].value or {})
    assert value == await kv.get(key, collection=collection)


def test_runbook(folder: str, tmp_path: Path, quick_vaultctl: Path) -> None:
    """The commands of the runbook do what the test does through the library, and exit as it says."""
    page = (ROOT / folder / "README.md").read_text(encoding="utf-8")
    lost = any(expected.is_lost for expected in expectations(folder))
    copy = thawed(folder, tmp_path)

    commands = [shlex.split(line) for block in SHELL.findall(page) for line in block.splitlines()]
    assert commands
    for name, *arguments in commands:
        done = subprocess.run(
            [quick_vaultctl / name, *arguments, "--no-input"],
            cwd=copy,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (3 if lost else 0) == done.returncode, done.stderr


def test_numbers_are_unique() -> None:
    """A folder is named by a number that no other one has, and by what wrote it."""
    names = [re.fullmatch(r"(\d{4})-[a-z0-9.-]+", name) for name in FOLDERS]

    assert None not in names
    assert len(FOLDERS) == len({match[1] for match in names if match})


def test_folders_are_complete(folder: str) -> None:
    """A folder has a runbook, a recipe, a generator, a vault, its keys and what it must open to, and no more."""
    assert FILES == {path.name for path in (ROOT / folder).iterdir() if path.name != "__pycache__"}


def test_every_format_has_a_migration(folder: str, tmp_path: Path) -> None:
    """No recipe names a format that this test does not run."""
    assert read_recipe(thawed(folder, tmp_path) / "recipe.toml").source.format in MIGRATIONS


def test_table_of_folders() -> None:
    """The table in the README lists exactly the folders, in order, each with a link to its runbook."""
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \[(.*?)\]\((.*?)/README\.md\) \|", page, re.MULTILINE)

    assert [(name, name) for name in FOLDERS] == rows


def test_frozen_files() -> None:
    """No frozen file was changed, added or removed; a new folder is frozen with migrations/freezing.py."""
    assert CHECKSUMS.read_text(encoding="utf-8") == checksums()


def test_nothing_of_the_machine_that_froze_it(folder: str) -> None:
    """No write-ahead log is left over, and no path of the machine on which a vault was written is in it."""
    files = [path for path in (ROOT / folder).rglob("*") if path.is_file()]
    trace = re.compile(rb"/(?:root|home|Users|work|tmp|private)/")

    assert [] == [path.name for path in files if path.name.endswith(("-wal", "-shm", "-journal"))]
    assert [] == [path.name for path in files if path.suffix != ".pyc" and trace.search(path.read_bytes())]


async def test_bodies_of_the_old_releases(tmp_path: Path, stack: AsyncExitStack) -> None:
    """Up to 0.2.8 a body has neither names nor expiry, and from 0.3 on both: so the frozen vaults show each."""

    async def fields(folder: str) -> set[str]:
        work = await work_on(thawed(folder, tmp_path), stack)
        expiring = [entry for entry in await entries_of(work.source) if entry.expires_at is not None]
        return {name for entry in expiring for name in json.loads(entry.stored)}

    old, new = {"value", "created_at"}, {"collection", "key", "expires_at", "version"}

    assert (old, old) == (await fields("0001-fernet-0.2.7"), await fields("0002-fernet-0.2.8"))
    assert old | new == await fields("0003-fernet-0.5")

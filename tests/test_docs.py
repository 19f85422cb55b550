"""Every example in the README and the runbooks is run, in order, as a reader would run it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography.fernet import Fernet
from key_value.aio.stores.disk import DiskStore
from key_value.aio.stores.postgresql import PostgreSQLStore
from key_value.aio.stores.redis import RedisStore
from key_value.aio.wrappers.encryption import FernetEncryptionWrapper

from kvseal import EnvelopeEncryptionWrapper, Vault
from kvseal.errors import VaultMetaLostError, WrongSecretError
from kvseal.keys.meta import META_COLLECTION, META_KEY
from kvseal.vault.seen.pin import Pin

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from key_value.aio.protocols.key_value import AsyncKeyValue

Step = Callable[["Story"], Awaitable[None]]

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SECTION = re.compile(r"^## (.*)$", re.MULTILINE)


def sections(page: str) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return heading and fenced blocks, each (language, text), of every section of *page*."""
    first, *rest = SECTION.split((ROOT / page).read_text(encoding="utf-8"))
    pairs = [("", first), *zip(rest[::2], rest[1::2], strict=True)]
    return [(heading, BLOCK.findall(text)) for heading, text in pairs]


def run(language: str, text: str, directory: Path, environment: dict[str, str]) -> str:
    """Run one block in *directory* and return what it prints; its failure is the test's."""
    if language == "toml":
        (directory / "vaultctl.toml").write_text(text, encoding="utf-8")
        return ""
    # This very package is installed already.
    lines = "".join(line for line in text.splitlines(keepends=True) if not line.startswith("pip install"))
    command = ["bash", "-euc", lines] if language == "sh" else [sys.executable, "-c", lines]
    done = subprocess.run(
        command, cwd=directory, env=environment, capture_output=True, text=True, check=False
    )

    assert (0, text) == (done.returncode, text), done.stderr
    return done.stdout


def reader(tmp_path: Path, fernet_key: bytes) -> dict[str, str]:
    """Return the environment of a reader who has just installed kvseal."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    home = tmp_path / "home"
    home.mkdir()
    return {"PATH": path, "HOME": str(home), "OLD_FERNET_KEY": fernet_key.decode(), "LANG": "C.UTF-8"}


async def add_legacy_records(story: Story) -> None:
    """Let the old application write two records."""
    store = DiskStore(directory=story.work / "kv")
    old = FernetEncryptionWrapper(key_value=store, fernet=Fernet(story.environment["OLD_FERNET_KEY"]))
    await old.put("legacy-1", {"access_token": "one"}, collection="sessions", ttl=3600)
    await old.put("legacy-2", {"access_token": "two"}, collection="sessions")
    await store.close()


@dataclass
class Story:
    """What a page's sections are run in, and what is looked at between them."""

    work: Path
    environment: dict[str, str]
    seen: dict[str, bytes] = field(default_factory=dict)

    @classmethod
    def begin(cls, tmp_path: Path) -> Story:
        """Return an old application's surroundings."""
        (tmp_path / "work").mkdir()
        return cls(tmp_path / "work", reader(tmp_path, Fernet.generate_key()))

    @asynccontextmanager
    async def disk(self, name: str) -> AsyncIterator[DiskStore]:
        """Yield the disk store *name*."""
        store = DiskStore(directory=self.work / name)
        yield store
        await store.close()

    async def expect(self, store: AsyncKeyValue, secret: str) -> None:
        """Both records read what the old application wrote, and the first one expires as it should."""
        vault = await Vault.open(store, secret=f"file:{self.work / secret}")
        kv = EnvelopeEncryptionWrapper(store, vault=vault)
        one, ttl = await kv.ttl("legacy-1", collection="sessions")
        two = await kv.get("legacy-2", collection="sessions")
        await vault.close()

        assert ({"access_token": "one"}, {"access_token": "two"}) == (one, two)
        assert ttl is not None
        assert 0 < ttl <= 3600

    async def expect_in(self, name: str, secret: str) -> None:
        """`expect` of the disk store *name*."""
        async with self.disk(name) as store:
            await self.expect(store, secret)

    async def expect_refused(self, *secrets: str) -> None:
        """None of these secrets opens the vault."""
        async with self.disk("kv") as store:
            for secret in secrets:
                with pytest.raises(WrongSecretError):
                    await Vault.open(store, secret=f"file:{self.work / secret}")


async def lose_meta(story: Story) -> None:
    """Lose the vault meta, after which the application reads nothing and creates nothing."""
    async with story.disk("kv") as store:
        assert await store.delete(META_KEY, collection=META_COLLECTION)
        with pytest.raises(VaultMetaLostError):
            await Vault.open_or_create(store, secret=f"file:{story.work / 'master.key'}")


async def notice(story: Story) -> None:
    """Keep a sealed record and the vault meta of before the leak, which then are in the store's files."""
    async with story.disk("kv") as store:
        record = await store.get("legacy-2", collection="sessions")
        meta = await store.get(META_KEY, collection=META_COLLECTION)
    story.seen["record"] = str((record or {})["__encrypted_data__"])[:64].encode()
    story.seen["meta"] = str((meta or {})["mac"]).encode()

    assert all(found_in(story.work / "kv", text) for text in story.seen.values())


def found_in(directory: Path, text: bytes) -> list[str]:
    """Return the files in *directory* that hold *text*."""
    return sorted(path.name for path in directory.rglob("*") if path.is_file() and text in path.read_bytes())


async def restored(story: Story) -> None:
    """The store at the other place reads the same."""
    await story.expect_in("restored", "master.key")


async def unchanged(story: Story) -> None:
    """The store reads the same."""
    await story.expect_in("kv", "master.key")


async def moved(story: Story) -> None:
    """The other backends read the same, with expiries of their own, and the old store does too."""
    await unchanged(story)
    async with RedisStore(url=story.environment["REDIS_URL"]) as store:
        await story.expect(store, "master.key")
        assert 0 < await store._client.pttl("sessions::legacy-1") <= 3_600_000
    async with PostgreSQLStore(url=story.environment["DATABASE_URL"]) as store:
        await story.expect(store, "master.key")


async def fallen_back(story: Story) -> None:
    """The old release reads everything again, and so does the new one."""
    async with story.disk("kv") as store:
        old = FernetEncryptionWrapper(key_value=store, fernet=Fernet(story.environment["OLD_FERNET_KEY"]))
        names = ["legacy-1", "legacy-2"]
        assert [{"access_token": "one"}, {"access_token": "two"}] == await old.get_many(
            names, collection="sessions"
        )
    await unchanged(story)


async def recovered(story: Story) -> None:
    """The recovery key opens the vault, and the secrets whose slots were removed do not."""
    await story.expect_in("kv", "recovery.key")
    await story.expect_refused("found.key", "backup.key")


async def rotated(story: Story) -> None:
    """The new secret reads the same, and the old one is refused."""
    await story.expect_in("kv", "new.key")
    await story.expect_refused("master.key")


async def root_replaced(story: Story) -> None:
    """Both secrets read the same, under a root key that the one before has handed over to."""
    for secret in ("new.key", "recovery.key"):
        await story.expect_in("kv", secret)
    async with story.disk("kv") as store:
        assert "handover" in (await store.get(META_KEY, collection=META_COLLECTION) or {})


async def limited(story: Story) -> None:
    """The vault has its policy, and its newest meta is the one that is pinned."""
    async with story.disk("kv") as store:
        meta = await store.get(META_KEY, collection=META_COLLECTION) or {}
    pinned = Pin(story.work / "pins" / "kv.pin").load()

    assert (7_776_000, 10_000_000) == (meta["policy"]["max_dek_age"], meta["policy"]["max_dek_records"])
    assert pinned is not None
    assert (meta["vault_id"], meta["revision"]) == (pinned.vault_id.hex(), pinned.revision)


async def sealed_anew(story: Story) -> None:
    """Records read the same under a new DEK; the leaked secrets, and what they opened, are gone."""
    await story.expect_in("kv", "after-leak.key")
    await story.expect_refused("master.key", "new.key")

    assert {"record": [], "meta": []} == {
        name: found_in(story.work / "kv", text) for name, text in story.seen.items()
    }


async def nothing(_: Story) -> None:
    """Do nothing."""


@dataclass(frozen=True)
class Runbook:
    """A section of a page: the sections that a reader has followed before, and what is looked at around it."""

    builds_on: tuple[str, ...] = ()
    says: tuple[str, ...] = ()
    before: Step = nothing
    after: Step = nothing


IMPORT = "Import a Fernet vault"
IMPORTED = ("Start", IMPORT)
MOVE = "Move to another backend"
RECOVERY = "A recovery key, and other ways in"

RUNBOOKS = {
    "Start": Runbook(),
    IMPORT: Runbook(("Start",), after=unchanged),
    "Import a Fernet vault while users are online": Runbook(IMPORTED, after=unchanged),
    "Fall back": Runbook(IMPORTED, after=fallen_back),
    "Large stores": Runbook(IMPORTED, after=unchanged),
    "The way back": Runbook(IMPORTED, after=unchanged),
    "Back up and restore": Runbook(
        IMPORTED, ("restore: 3 entries, 3 restored", "verify: 2 records"), after=restored
    ),
    "The vault meta is lost": Runbook(
        (*IMPORTED, "Back up and restore"), ("restore: 1 entry, 1 restored",), lose_meta, unchanged
    ),
    MOVE: Runbook(IMPORTED, after=moved),
    RECOVERY: Runbook(IMPORTED, after=unchanged),
    "The master secret is lost": Runbook((*IMPORTED, RECOVERY), after=recovered),
    "Rotate the secret": Runbook(IMPORTED, after=rotated),
    "Choose the Argon2id cost": Runbook(),
    "Replace the root key": Runbook((*IMPORTED, RECOVERY, "Rotate the secret"), after=root_replaced),
    "After a leak": Runbook(
        (*IMPORTED, RECOVERY, "Rotate the secret", "Replace the root key"),
        ("DEK 1 is dropped: none of", "purge: no overwritten record is left"),
        notice,
        sealed_anew,
    ),
    "Policy, pins and idle processes": Runbook(
        (*IMPORTED, "Rotate the secret", "After a leak"), after=limited
    ),
    "Watch it": Runbook(says=("'state': 'ok'", '"event": "vault.create", "outcome": "success"')),
    "Stores": Runbook(IMPORTED, after=unchanged),
    "Overwritten ciphertext": Runbook(IMPORTED, ("purge: no overwritten record is left",), after=unchanged),
}
"""By the headings of the operations page, in its order."""


async def follow(story: Story, blocks: list[tuple[str, str]]) -> str:
    """Run the blocks of one section in order, and return what they print."""
    printed = []
    for language, text in blocks:
        if "migrate-from-fernet" in text:
            await add_legacy_records(story)
        printed.append(run(language, text, story.work, story.environment))
    return "".join(printed)


@pytest.mark.processes
async def test_readme(tmp_path: Path) -> None:
    """The README's examples work in the order in which they stand, with the installed program."""
    story = Story.begin(tmp_path)

    printed = "".join([await follow(story, blocks) for _, blocks in sections("README.md")])

    assert "{'access_token': '…'}" in printed
    assert "verify: 3 records" in printed


@pytest.fixture
def story(tmp_path: Path, quick_vaultctl: Path) -> Story:
    """Return an old application's surroundings, with the quick program."""
    story = Story.begin(tmp_path)
    story.environment["PATH"] = f"{quick_vaultctl}{os.pathsep}{story.environment['PATH']}"
    return story


@pytest.mark.filterwarnings("ignore:A configured store is unstable:UserWarning")
@pytest.mark.parametrize("heading", [name for name in RUNBOOKS if name != MOVE])
async def test_operations(heading: str, story: Story) -> None:
    """A runbook works after those that it builds on, and comes out as it says."""
    await check_runbook(heading, story)


@pytest.mark.filterwarnings("ignore:A configured store is unstable:UserWarning")
async def test_move_to_another_backend(story: Story, redis_url: str, postgresql_url: str) -> None:
    """The runbook that moves a vault to a server works with a real Redis and a real PostgreSQL."""
    story.environment |= {"REDIS_URL": redis_url, "DATABASE_URL": postgresql_url}

    await check_runbook(MOVE, story)


async def check_runbook(heading: str, story: Story) -> None:
    """Run the section *heading* after those that it builds on, and look at what came of it."""
    runbook, blocks = RUNBOOKS[heading], dict(sections("docs/operations.md"))
    for earlier in runbook.builds_on:
        await follow(story, blocks[earlier])

    await runbook.before(story)
    printed = await follow(story, blocks[heading])
    await runbook.after(story)

    assert [] == [text for text in runbook.says if text not in printed]


def test_every_runbook_is_followed() -> None:
    """The table has a row for each section of the operations page with something to run, in the page's order."""
    headings = [heading for heading, blocks in sections("docs/operations.md") if blocks]

    assert headings == [*RUNBOOKS]


def test_runbooks_build_on_earlier_ones() -> None:
    """Nobody has to read ahead: a section builds on what stands above it, and so do those that it builds on."""
    headings = [*RUNBOOKS]

    for number, (heading, runbook) in enumerate(RUNBOOKS.items()):
        earlier = [name for name in headings[:number] if name in runbook.builds_on]
        assert (heading, (*earlier,)) == (heading, runbook.builds_on)


@pytest.mark.processes
def test_numbers() -> None:
    """Every figure in the README and in the results page is that of the committed results."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.report", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert (0, "") == (done.returncode, done.stderr)


def test_links() -> None:
    """Every relative link in a document leads to a file."""
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
    missing = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in pages
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8"))
        if not (page.parent / target).exists()
    ]

    assert [] == missing

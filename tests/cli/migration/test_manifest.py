"""`--manifest` and `--offline`: names from a file, and stores that promise less."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from key_value.aio.stores.filetree import (
    FileTreeStore,
    FileTreeV1CollectionSanitizationStrategy,
    FileTreeV1KeySanitizationStrategy,
)
from tests.cli.harness import old_store

from kvseal.cli.settings import Settings
from kvseal.drivers.filetree import swaps
from kvseal.drivers.manifest import Manifest
from kvseal.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.cli.harness import Terminalless

URLS = ("https://host/one", "https://host/two")

FACTORY = """
from key_value.aio.stores.memory import MemoryStore
from tests.fakes import BareStore

BARE = BareStore()

def bare():
    return BARE

async def odd():
    store = MemoryStore()
    await store.put("\\ud800", {"v": 1}, collection="c")
    return store
"""

BARE = "--store python:bare_stores:bare"
META = "--meta-store disk:meta"
BOTH = "--offline --manifest names.jsonl"


def tree_store(directory: Path, values: Mapping[str, Any]) -> None:
    """Write *values* into collection `c` of a file tree store that sanitizes names."""
    directory.mkdir(exist_ok=True)
    store = FileTreeStore(
        data_directory=directory,
        key_sanitization_strategy=FileTreeV1KeySanitizationStrategy(directory),
        collection_sanitization_strategy=FileTreeV1CollectionSanitizationStrategy(directory),
    )

    async def fill() -> None:
        for key, value in values.items():
            await store.put(key, value, collection="c")

    asyncio.run(fill())


def write_manifest(*keys: str, file: str = "names.jsonl") -> None:
    """Write a manifest of *keys* in collection `c`."""
    lines = [json.dumps({"collection": "c", "key": key}) + "\n" for key in keys]
    Path(file).write_text("".join(lines), encoding="utf-8")


def listed(vaultctl: Terminalless, command: str) -> list[Any]:
    """Return the keys that `list` prints."""
    done = vaultctl(f"list --json {command}")
    assert 0 == done.code, done.err
    return [line["key"] for line in done.lines]


@pytest.fixture
def bare(vaultctl: Terminalless, monkeypatch: pytest.MonkeyPatch) -> Terminalless:
    """Return vaultctl beside an application with a store that kvseal has no driver for."""
    Path("bare_stores.py").write_text(FACTORY)
    monkeypatch.syspath_prepend(str(vaultctl.directory))
    monkeypatch.delitem(__import__("sys").modules, "bare_stores", raising=False)
    return vaultctl


class TestManifest:
    """Names from a file."""

    @pytest.fixture(autouse=True)
    def _tree(self, vaultctl: Terminalless) -> None:
        tree_store(vaultctl.directory / "tree", {"plain": {"n": 0}, **{url: {"n": 1} for url in URLS}})

    def test_what_list_prints_is_a_manifest(self, vaultctl: Terminalless) -> None:
        """The list of one store names the entries of another that holds the same and hides the names."""
        old_store(Path("kv"), {url: {"n": 1} for url in URLS})
        Path("names.jsonl").write_text(vaultctl("list --json").out, encoding="utf-8")

        assert [None, None, "plain"] == listed(vaultctl, "--store filetree:tree")
        assert [*URLS, "plain"] == sorted(
            listed(vaultctl, "--store filetree:tree --manifest names.jsonl"), key=len, reverse=True
        )

    def test_a_list_with_gaps(self, vaultctl: Terminalless) -> None:
        """What a store can list of itself is a manifest too; the names that it hides are not in it."""
        Path("names.jsonl").write_text(vaultctl("list --json --store filetree:tree").out)

        assert [("c", "plain")] == list(Manifest(Path("names.jsonl")))
        assert [None, None, "plain"] == listed(vaultctl, "--store filetree:tree --manifest names.jsonl")

    def test_a_lone_surrogate(self, bare: Terminalless) -> None:
        """A name that UTF-8 cannot hold survives the way through the file."""
        done = bare("list --json --store python:bare_stores:odd")
        Path("names.jsonl").write_text(done.out, encoding="utf-8")

        assert [("c", "\ud800")] == list(Manifest(Path("names.jsonl")))

    @pytest.mark.parametrize("source", ["flag", "variable", "config"])
    def test_where_it_comes_from(
        self, vaultctl: Terminalless, monkeypatch: pytest.MonkeyPatch, source: str
    ) -> None:
        """Flag, environment or `vaultctl.toml`, as with the store."""
        write_manifest(*URLS)
        flag = ""
        match source:
            case "flag":
                flag = "--manifest names.jsonl"
                monkeypatch.setenv("VAULTCTL_MANIFEST", "nowhere")
            case "variable":
                monkeypatch.setenv("VAULTCTL_MANIFEST", "names.jsonl")
                Path("vaultctl.toml").write_text('manifest = "nowhere"\n')
            case "config":
                Path("vaultctl.toml").write_text('manifest = "names.jsonl"\n')

        assert {"plain", *URLS} == set(listed(vaultctl, f"--store filetree:tree {flag}"))

    def test_offline_is_said_each_time(self) -> None:
        """Whether others write is a matter of the moment, so no file and no variable says it."""
        assert None is Settings().overridden(store="disk:kv").completed().offline
        Path("vaultctl.toml").write_text("offline = true\n")
        with pytest.raises(UsageError, match=r"vaultctl\.toml"):
            Settings().completed()

    @pytest.mark.parametrize(
        ("content", "what"),
        [(None, "cannot be read"), ('{"collection": "c", "key": "k"}\n{"key": "k"}\n', "line 2")],
    )
    def test_a_bad_manifest(self, vaultctl: Terminalless, content: str | None, what: str) -> None:
        """A manifest that cannot be read is a usage error, before the store is looked for."""
        if content is not None:
            Path("names.jsonl").write_text(content)

        done = vaultctl("list --store disk:nowhere --manifest names.jsonl")

        assert (2, "") == (done.code, done.out)
        assert what in done.err

    def test_records_keep_their_names(self, vaultctl: Terminalless) -> None:
        """What vaultctl has put by its name is found without a manifest, and its name shows with the secret alone."""
        store = "--store filetree:tree"
        assert 0 == vaultctl(f"init {store} --argon2 1,8,1").code
        assert 0 == vaultctl(f"put c {URLS[0]} {store}", stdin='{"v": 1}').code

        assert {"plain", None} == set(listed(vaultctl, store))
        assert {"plain", None, URLS[0]} == set(listed(vaultctl, f"{store} --names-inside"))
        assert '{"v":1}\n' == vaultctl(f"get c {URLS[0]} {store}").out


class TestStoreWithoutDriver:
    """A factory's store that kvseal does not know."""

    @pytest.mark.parametrize("flags", ["", "--offline", "--manifest names.jsonl"])
    def test_needs_both(self, bare: Terminalless, flags: str) -> None:
        """Without both flags it is refused, with what it could not promise and what to give."""
        write_manifest("k")

        done = bare(f"list {BARE} {flags}")

        assert (2, "") == (done.code, done.out)
        for part in ("no driver for", "not see", "can be lost", "--offline", "--manifest FILE"):
            assert part in done.err

    def test_the_whole_way(self, bare: Terminalless) -> None:
        """With both, and a vault meta elsewhere, records are put, listed, read, verified and deleted."""
        write_manifest("k", "gone", *URLS)
        store = f"{BARE} {META} {BOTH}"

        done = [
            bare(f"init {store} --create-store --argon2 1,8,1"),
            bare(f"put c k {store}", stdin='{"v": 1}'),
            bare(f"put c {URLS[0]} {store}", stdin='{"v": 2}'),
            bare(f"put c unnamed {store}", stdin='{"v": 3}'),
            bare(f"verify {store}"),
        ]

        assert [0] * len(done) == [each.code for each in done], done
        assert "2 records" in done[-1].out
        assert ["k", URLS[0]] == listed(bare, store)
        assert '{"v":3}\n' == bare(f"get c unnamed {store}").out
        assert 0 == bare(f"delete c k {store} --yes").code
        assert [URLS[0]] == listed(bare, store)

    def test_is_no_home_for_a_vault_meta(self, bare: Terminalless) -> None:
        """Nobody knows whether such a store drops entries, so the vault meta has to be elsewhere."""
        write_manifest("k")

        inside = bare(f"init {BARE} {BOTH} --argon2 1,8,1")
        elsewhere = bare(f"init --store disk:kv --meta-store python:bare_stores:bare {BOTH} --create-store")

        assert (1, 2) == (inside.code, elsewhere.code)
        assert "meta_store=" in inside.err
        assert "no driver for" in elsewhere.err


class TestOffline:
    """Stores with a driver, but without a compare-and-swap."""

    @pytest.fixture(autouse=True)
    def _without_exchange(self, vaultctl: Terminalless, monkeypatch: pytest.MonkeyPatch) -> None:
        tree_store(vaultctl.directory / "tree", {"key": {"n": 0}})
        assert 0 == vaultctl("init --store filetree:tree --argon2 1,8,1").code

        def refuse(*_: Any) -> None:
            raise OSError(22, "Invalid argument")

        monkeypatch.setattr(swaps, "exchange", refuse)

    @pytest.mark.parametrize(
        "command",
        [
            "put c key",
            "put c new",
            "delete c key --yes",
            "reencrypt --no-backup --yes",
            "migrate-to-fernet --fernet-key env:OLD --no-backup --yes",
        ],
    )
    def test_is_asked_for_before_a_write(self, vaultctl: Terminalless, command: str) -> None:
        """Whatever writes asks for the promise; a dry run does not."""
        command += " --store filetree:tree"
        before = {path: path.read_bytes() for path in Path("tree").rglob("*.json")}

        refused, dry = (vaultctl(command + flag, stdin='{"v": 1}') for flag in ("", " --dry-run"))

        assert (2, 0) == (refused.code, dry.code)
        assert "has no compare-and-swap" in refused.err
        assert "give --offline" in refused.err
        assert before == {path: path.read_bytes() for path in Path("tree").rglob("*.json")}
        assert 0 == vaultctl(f"{command} --offline", stdin='{"v": 1}').code

    def test_is_not_asked_for_elsewhere(self, vaultctl: Terminalless) -> None:
        """Reading needs no promise, and a store with a compare-and-swap needs none at all."""
        assert 0 == vaultctl("list --store filetree:tree").code
        assert 0 == vaultctl("init --store disk:kv --create-store --argon2 1,8,1").code
        assert 0 == vaultctl("put c key", stdin="{}").code

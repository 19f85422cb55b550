"""`--names-inside`: the names that records carry, in a list, in a restore and in the policy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.cli.harness import Terminalless

URLS = ("https://host/one", "https://host/two")
TREE = "--store filetree:tree?names=v1"


@pytest.fixture
def tree(vaultctl: Terminalless) -> Terminalless:
    """Return vaultctl beside a file tree that sanitizes names, with three records."""
    assert 0 == vaultctl(f"init {TREE} --create-store --argon2 1,8,1").code
    for number, key in enumerate((*URLS, "plain")):
        assert 0 == vaultctl(f"put c {key} {TREE}", stdin=json.dumps({"n": number})).code
    return vaultctl


def listed(vaultctl: Terminalless, options: str) -> list[dict[str, Any]]:
    """Return what `list` prints."""
    done = vaultctl(f"list {options} --json")
    assert 0 == done.code
    return [line for line in done.lines if line["type"] == "record"]


def test_list(tree: Terminalless) -> None:
    """Without the secret two names are missing, and the answer says how to see them; with it they are there."""
    done = tree(f"list {TREE}")

    assert 0 == done.code
    assert ["c\t", "c\t", "c\tplain"] == sorted(done.out.splitlines())
    assert "2 records carry names that the store does not show: --names-inside" in done.err
    assert {*URLS, "plain"} == {line["key"] for line in listed(tree, f"{TREE} --names-inside")}
    assert "--names-inside" not in tree(f"list {TREE} --names-inside").err


def test_list_asks_for_the_secret(tree: Terminalless, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong secret opens nothing, and `list` alone needs none."""
    monkeypatch.setenv("KVSEAL_MASTER_KEY", "another one that is long enough")

    assert 12 == tree(f"list {TREE} --names-inside").code
    assert 0 == tree(f"list {TREE}").code


def test_a_moved_record(tree: Terminalless) -> None:
    """A copied file has no name in the list, and what is wrong with it; no output has the name in it."""
    one, two = sorted(path for path in Path("tree/c").iterdir() if path.name.startswith("S_"))
    two.write_bytes(one.read_bytes())

    lines = listed(tree, f"{TREE} --names-inside")
    verified = tree(f"verify {TREE}")

    assert {("plain", ""), (URLS[0], ""), (None, "moved")} == {
        (line["key"], "moved" if line["problem"] else "") for line in lines
    }
    assert 3 == verified.code
    assert two.name in verified.out + verified.err
    assert "https://" not in verified.out + verified.err


def test_restore_into_another_kind_of_store(tree: Terminalless) -> None:
    """A backup needs no secret; a restore of another kind of store needs it, and then has every record."""
    assert 0 == tree(f"backup all.kvseal {TREE}").code

    without = tree("restore all.kvseal --store disk:kv --create-store")
    dry = tree("restore all.kvseal --store disk:kv --names-inside --dry-run --json")
    done = tree("restore all.kvseal --store disk:kv --names-inside --json")

    assert 3 == without.code
    assert "--names-inside" in without.out + without.err
    assert [(0, 2, 2, 0)] * 2 == [
        (one.code, line["restored"], line["already"], line["failed"])
        for one in (dry, done)
        for line in one.lines
        if line["type"] == "summary"
    ]
    assert {*URLS, "plain"} == {line["key"] for line in listed(tree, "--store disk:kv")}
    assert '{"n":1}\n' == tree(f"get c {URLS[1]} --store disk:kv").out
    assert 0 == tree("verify --store disk:kv").code


def test_policy(vaultctl: Terminalless) -> None:
    """The policy lets every record carry its names, and a re-encryption the older ones; and back."""
    vaultctl("init --create-store --argon2 1,8,1")
    vaultctl("put c before", stdin="{}")

    dry = vaultctl("policy set --names-inside --dry-run --json")
    on = vaultctl("policy set --names-inside --json")
    vaultctl("put c after", stdin="{}")
    flags = [vaultctl(f"inspect c {key} --json").lines[-1]["names_inside"] for key in ("before", "after")]
    done = vaultctl("reencrypt --yes --no-backup --json").lines[-1]
    off = vaultctl("policy set --no-names-inside --json")

    assert [False, True] == flags
    assert (1, 1) == (done["changed"], done["already"])
    assert [None, True, None] == [one.lines[-1]["policy"].get("names_inside") for one in (dry, on, off)]
    assert 0 == vaultctl("verify").code


def test_policy_shows(vaultctl: Terminalless) -> None:
    """A person sees the switch where it is set, and only there."""
    vaultctl("init --create-store --argon2 1,8,1")

    before = vaultctl("policy show").out
    vaultctl("policy set --names-inside")

    assert "names inside" not in before
    assert "names inside     of every record" in vaultctl("policy show").out

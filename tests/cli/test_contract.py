"""The contract of vaultctl that scripts rely on: streams, JSON, exit codes, precedence, and nothing written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import pytest
from tests.cli.harness import (
    FERNET_KEY,
    NEW_SECRET,
    PLAINTEXT,
    SECRET,
    Done,
    Terminalless,
    old_store,
    with_store,
)
from tests.recoding.worlds import damage

from kvseal.cli.app import cli
from kvseal.cli.commands import COMMANDS
from kvseal.errors import ExitCode

if TYPE_CHECKING:
    from collections.abc import Callable

FACTORY = """
from key_value.aio.stores.memory import MemoryStore
from key_value.aio.stores.disk import DiskStore
from key_value.aio.wrappers.prefix_collections import PrefixCollectionsWrapper

STORE = MemoryStore()

def memory():
    return STORE

async def stack():
    return PrefixCollectionsWrapper(DiskStore(directory="inner"), prefix="tenant")

def small():
    return DiskStore(directory="small", max_size=1000000)

def number():
    return 7
"""


@pytest.fixture
def migrated(vaultctl: Terminalless) -> Terminalless:
    """Return vaultctl in a directory with a vault of two records."""
    old_store(vaultctl.directory / "kv", {"a": {"t": PLAINTEXT}, "b": {"n": 1}})
    assert 0 == vaultctl("migrate-from-fernet --fernet-key env:OLD --yes --argon2 1,8,1").code
    return vaultctl


def harm(directory: Path, key: str = "a") -> None:
    """Damage a record."""

    async def work(store: Any) -> None:
        await damage(store, key)

    with_store(directory / "kv", work)


def contents(directory: Path) -> dict[str, bytes]:
    """Return every file but SQLite's own side files, which a reader makes and removes."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file() and not path.name.endswith(("-wal", "-shm"))
    }


class TestTableOfCommands:
    """Commands are loaded when they run; the table says the same of them as they do themselves."""

    def test_help(self) -> None:
        """The help is that of a group that has loaded all its commands."""
        eager = click.Group(name="cli", commands=TOP, params=cli.params, help=cli.help)

        shown = [
            group.get_help(click.Context(group, info_name="vaultctl", **cli.context_settings))
            for group in (cli, eager)
        ]

        assert shown[0].partition("Commands:")[2] == shown[1].partition("Commands:")[2]
        assert list(TOP) == [command.name for command in TOP.values()]

    @pytest.mark.parametrize("incomplete", ["", "re", "mig", "--st", "x"])
    def test_completion(self, incomplete: str) -> None:
        """So are the completions."""
        eager = click.Group(commands=TOP, params=cli.params)

        found = [
            [
                (item.value, item.help)
                for item in group.shell_complete(click.Context(group, **cli.context_settings), incomplete)
            ]
            for group in (cli, eager)
        ]

        assert found[0] == found[1]

    def test_an_unknown_command(self) -> None:
        """A name that is not in the table leads to no command."""
        assert cli.get_command(click.Context(cli), "unknown") is None


class TestGlobalOptions:
    """They mean the same everywhere."""

    @pytest.mark.parametrize("command", ["--json list", "list --json"])
    def test_before_and_after_the_command(self, migrated: Terminalless, command: str) -> None:
        """A global option stands before or after the command."""
        assert ["a", "b"] == [line["key"] for line in migrated(command).lines]

    def test_behind_the_command_wins(self, migrated: Terminalless) -> None:
        """If both are given, the later one counts."""
        assert 0 == migrated("--store disk:nowhere list --store disk:kv").code

    @pytest.mark.parametrize(
        ("flag", "variable", "config", "expected"),
        [
            ("disk:kv", "disk:other", "disk:other", 0),
            (None, "disk:kv", "disk:other", 0),
            (None, None, "disk:kv", 0),
            (None, "", "disk:kv", 0),
            (None, None, None, 2),
            ("disk:other", "disk:kv", "disk:kv", 10),
            ("", "disk:kv", "disk:kv", 2),
        ],
    )
    def test_store(
        self,
        migrated: Terminalless,
        monkeypatch: pytest.MonkeyPatch,
        flag: str | None,
        variable: str | None,
        config: str | None,
        expected: int,
    ) -> None:
        """Flag, then environment, then vaultctl.toml; an empty variable is none, an empty flag a mistake."""
        monkeypatch.delenv("VAULTCTL_STORE")
        if variable is not None:
            monkeypatch.setenv("VAULTCTL_STORE", variable)
        if config is not None:
            Path("vaultctl.toml").write_text(f'store = "{config}"\n')

        done = migrated("list" if flag is None else f"list --store '{flag}'")

        assert expected == done.code

    @pytest.mark.parametrize(
        ("flag", "variable", "config", "expected"),
        [
            ("env:RIGHT", "env:WRONG", "env:WRONG", 0),
            (None, "env:RIGHT", "env:WRONG", 0),
            (None, None, "env:RIGHT", 0),
            (None, None, None, 12),
            ("", "env:RIGHT", "env:RIGHT", 2),
        ],
    )
    def test_secret(
        self,
        migrated: Terminalless,
        monkeypatch: pytest.MonkeyPatch,
        flag: str | None,
        variable: str | None,
        config: str | None,
        expected: int,
    ) -> None:
        """The same order for the secret, and the default order behind it."""
        monkeypatch.setenv("RIGHT", SECRET)
        monkeypatch.setenv("WRONG", "wrong")
        monkeypatch.setenv("KVSEAL_MASTER_KEY", "the default, which is wrong too")
        if variable is not None:
            monkeypatch.setenv("VAULTCTL_SECRET", variable)
        if config is not None:
            Path("vaultctl.toml").write_text(f'secret = "{config}"\n')

        done = migrated("status" if flag is None else f"status --secret '{flag}'")

        assert expected == done.code

    def test_meta_store(self, vaultctl: Terminalless, monkeypatch: pytest.MonkeyPatch) -> None:
        """An evicting store is refused as the home of the vault meta, and served with one of its own."""
        Path("stores.py").write_text(FACTORY)
        monkeypatch.syspath_prepend(str(vaultctl.directory))
        monkeypatch.delitem(__import__("sys").modules, "stores", raising=False)
        store = "--store python:stores:small"

        refused = vaultctl(f"init {store} --argon2 1,8,1")
        Path("vaultctl.toml").write_text('meta_store = "disk:meta"\n')
        created = vaultctl(f"init {store} --create-store --argon2 1,8,1 --quiet")
        put = vaultctl(f"put c k {store}", stdin='{"v": 1}')
        without = vaultctl(f"get c k {store} --meta-store disk:small")
        monkeypatch.setenv("VAULTCTL_META_STORE", "disk:meta")
        Path("vaultctl.toml").unlink()
        got = vaultctl(f"get c k {store}")

        assert (1, 0, 0, 10, 0) == (refused.code, created.code, put.code, without.code, got.code)
        assert "meta_store=" in refused.err
        assert '{"v":1}\n' == got.out

    @pytest.mark.parametrize(
        "text",
        ['stores = "disk:kv"', "store = 1", "store =", '[store]\nurl = "disk:kv"', 'secret = ["env:X"]'],
    )
    def test_config_is_strict(self, migrated: Terminalless, text: str) -> None:
        """A field that vaultctl does not know is a mistake and not ignored."""
        Path("vaultctl.toml").write_text(text)

        done = migrated("list")

        assert (2, "") == (done.code, done.out)
        assert "vaultctl.toml" in done.err


def test_config_that_others_can_change(migrated: Terminalless) -> None:
    """A config that others can write could make the reader run their code, so it is refused."""
    config = Path("vaultctl.toml")
    config.write_text('store = "disk:kv"\n')
    config.chmod(0o666)

    done = migrated("list")

    assert (2, "") == (done.code, done.out)
    assert "can be changed by others" in done.err


TOP = {name: place.load() for name, place in COMMANDS.items()}


def every_command() -> dict[str, click.Command]:
    """Return every command by its full name, those of groups among them."""
    found = {}
    for name, command in TOP.items():
        if isinstance(command, click.Group):
            found |= {f"{name} {below}": one for below, one in command.commands.items()}
        else:
            found[name] = command
    return found


def test_every_command_has_the_global_options() -> None:
    """`--json` and the rest are on every command."""
    expected = {"store", "meta_store", "secret", "as_json", "yes", "no_input", "quiet", "debug"}
    expected |= {"manifest", "offline", "pin"}
    for name, command in {**TOP, **every_command()}.items():
        assert expected <= {parameter.name for parameter in command.params}, name


@pytest.mark.parametrize("name", [None, *TOP, *every_command()])
def test_help_leads_with_examples(vaultctl: Terminalless, name: str | None) -> None:
    """`-h` works on every command, and examples come before the options."""
    done = vaultctl("-h" if name is None else f"{name} -h")

    assert (0, "") == (done.code, done.err)
    assert -1 < done.out.index("Examples:") < done.out.index("Options:")
    assert "vaultctl " + (name or "init") in done.out.partition("Examples:")[2].partition("Options:")[0]


def test_whatever_changes_something_has_a_dry_run() -> None:
    """Every command that writes can be asked what it would do."""
    migrating = {
        "migrate",
        "migrate-back",
        "migrate-from-fernet",
        "migrate-from-authsome",
        "migrate-to-fernet",
    }
    keys = {
        "slot add",
        "slot remove",
        "reencrypt",
        "dek retire",
        "bench argon2",
        "policy set",
        "policy drop-extension",
        "policy hold",
        "policy seal",
    }
    writing = {"init", "rotate", "put", "delete", "restore", "purge", *keys, *migrating}
    reading = {"status", "verify", "inspect", "get", "list", "keygen", "backup", "completion", "help"}
    reading |= {"slot list", "slot verify", "dek list", "policy show"}

    assert set(every_command()) == writing | reading
    for name in writing:
        assert "dry_run" in {parameter.name for parameter in every_command()[name].params}, name


@pytest.mark.parametrize(
    "command",
    [
        "rotate --new-secret env:NEW --dry-run",
        "rotate --argon2 1,16,1 --dry-run",
        "rotate --new-secret env:NEW --keep-old-for 24h --dry-run",
        "slot add --label laptop --new-secret env:NEW --dry-run",
        "slot add --recovery --dry-run",
        "slot list",
        "slot verify",
        "rotate --dek --dry-run",
        "rotate --root --dry-run",
        "reencrypt --dry-run",
        "reencrypt --check",
        "dek list --count",
        "put c new --dry-run",
        "put c a --dry-run --ttl 1h",
        "delete c a --dry-run --yes",
        "restore made.kvseal --dry-run",
        "restore made.kvseal --dry-run --overwrite --overwrite-vault-meta",
        "restore made.kvseal --dry-run --create-store --store disk:new",
        "init --store disk:new --create-store --dry-run",
        "init --store disk:new --meta-store disk:meta --create-store --dry-run",
        "migrate-from-fernet --fernet-key env:OLD --dry-run --yes",
        "migrate-from-fernet --fernet-key env:OLD --to disk:copy --create-store --dry-run",
        "migrate-from-fernet --fernet-key env:OLD --to disk:copy --create-store --check",
        "verify",
        "status --count",
        "list",
        "get c a",
        "inspect c a",
    ],
)
def test_nothing_is_written(migrated: Terminalless, command: str) -> None:
    """A dry run, or a command that only looks, changes no file and creates none."""
    old_store(Path("source"), {"a": {"v": 1}})
    if command.startswith("migrate"):
        command += " --store disk:source"
    if command.startswith("restore"):
        assert 0 == migrated("backup made.kvseal").code
    before = contents(migrated.directory)

    done = migrated(command, stdin='{"v": 1}')

    assert done.code in {0, 4}, done.err
    assert before == contents(migrated.directory)


def test_a_dry_run_of_init_generates_nothing(vaultctl: Terminalless, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither store nor vault nor secret comes to be."""
    monkeypatch.delenv("KVSEAL_MASTER_KEY")
    home = Path(os.environ["XDG_DATA_HOME"])

    done = vaultctl("init --create-store --dry-run")

    assert (0, "") == (done.code, done.out)
    assert "a master secret would be generated" in done.err
    assert ([], []) == (vaultctl.tree(), list(home.rglob("*")))


@pytest.mark.parametrize(
    ("prepare", "command", "expected"),
    [
        (lambda d: Path("kv").mkdir(), "", 0),
        (lambda d: (Path("kv").mkdir(), Path("kv/x").touch()), "", 10),
        (lambda d: None, "--secret env:MISSING", 2),
        (lambda d: None, "--argon2 0,8,1", 2),
        (lambda d: old_store(Path("kv"), {}), "", 0),
    ],
    ids=["empty directory", "directory in use", "no secret", "no such cost", "store without vault"],
)
def test_a_dry_run_of_init_checks_what_init_does(
    vaultctl: Terminalless, prepare: Callable[[Path], Any], command: str, expected: int
) -> None:
    """What a dry run says is what then happens."""
    prepare(vaultctl.directory)

    dry = vaultctl(f"init --create-store --dry-run --argon2 1,8,1 {command}")
    done = vaultctl(f"init --create-store --argon2 1,8,1 {command}")

    assert (expected, expected) == (dry.code, done.code)


def test_a_dry_run_of_init_refuses_orphaned_records(migrated: Terminalless) -> None:
    """Sealed records without their vault meta are found by the dry run as well."""

    async def lose(store: Any) -> None:
        await store.delete("__dek__", collection="__vault_meta__")

    with_store(migrated.directory / "kv", lose)

    assert [1, 1] == [migrated(f"init {dry}").code for dry in ("--dry-run", "")]


@pytest.mark.parametrize(
    "command",
    [
        "init",
        "status",
        "list",
        "verify",
        "get c k",
        "put c k",
        "delete c k --yes",
        "inspect c k",
        "rotate --argon2 1,8,1",
        "migrate-from-fernet --fernet-key env:OLD --yes",
    ],
)
def test_a_mistyped_path_creates_nothing(vaultctl: Terminalless, command: str) -> None:
    """A store that is not there is an error, never an empty store."""
    done = vaultctl(f"{command} --store disk:typo", stdin="{}")

    assert (10, "") == (done.code, done.out)
    assert [] == vaultctl.tree()


def test_a_second_vault(migrated: Terminalless) -> None:
    """A vault is never created over another one."""
    before = contents(migrated.directory)

    done = migrated("init --create-store --secret env:NEW")

    assert 1 == done.code
    assert before == contents(migrated.directory)


class TestJson:
    """With --json, stdout is JSON Lines and a fatal error is one JSON object on stderr."""

    @pytest.mark.parametrize(
        ("command", "typed"),
        [
            ("status", False),
            ("status --count", False),
            ("rotate --argon2 1,8,1", False),
            ("rotate --argon2 1,8,1 --dry-run", False),
            ("slot list", True),
            ("slot verify", True),
            ("slot add --recovery --argon2 1,8,1", True),
            ("slot add --label laptop --new-secret env:NEW --argon2 1,8,1", True),
            ("inspect c a", False),
            ("get c a", False),
            ("delete c a --dry-run", False),
            ("list", True),
            ("verify", True),
            ("migrate-from-fernet --fernet-key env:OLD --yes", True),
            ("migrate-from-fernet --fernet-key env:OLD --check", True),
            ("keygen", True),
            pytest.param("completion bash", True, marks=pytest.mark.processes),
            ("help exit-codes", True),
            ("help rotate", True),
        ],
    )
    def test_stdout(self, migrated: Terminalless, command: str, typed: bool) -> None:
        """Every line is JSON, typed lines say which type and schema they are, and stderr is silent."""
        done = migrated(f"{command} --json")

        assert (0, "") == (done.code, done.err)
        assert done.lines
        if typed:
            assert {1} == {line["schema"] for line in done.lines}
            assert all(isinstance(line["type"], str) for line in done.lines)

    @pytest.mark.parametrize(
        "command", ["put c new", "delete c a --yes", "keygen --out k", "put c n --dry-run"]
    )
    def test_nothing_to_say(self, migrated: Terminalless, command: str) -> None:
        """Where there is no data, there is no line."""
        done = migrated(f"{command} --json", stdin="{}")

        assert (0, "", "") == (done.code, done.out, done.err)

    def test_failures_and_summary(self, migrated: Terminalless) -> None:
        """Failures come as lines of their own, and the summary is the last line."""
        harm(migrated.directory)

        done = migrated("verify --json")

        failure, summary = done.lines
        assert 3 == done.code
        assert {"type", "schema", "collection", "key", "reason"} == set(failure)
        assert ("failure", "c", "a") == (failure["type"], failure["collection"], failure["key"])
        assert {"kvseal": 2} == summary["formats"]
        assert {"1": 2} == summary["deks"]
        assert ("summary", 1, "verify", 2, 0, 1, 0, 1, 0) == tuple(
            summary[name]
            for name in (
                "type",
                "schema",
                "command",
                "scanned",
                "changed",
                "already",
                "skipped",
                "failed",
                "conflicts",
            )
        )

    def test_status(self, migrated: Terminalless) -> None:
        """Status has the promised fields."""
        (status,) = migrated("status --json").lines

        assert {"vault_id", "revision", "slots", "deks", "policy", "legacy"} <= set(status)
        assert [{"id", "state", "created_at", "retired_at", "dropped"}] == [
            set(dek) for dek in status["deks"]
        ]

    @pytest.mark.parametrize(
        ("command", "code"),
        [
            ("list --store disk:nowhere", 10),
            ("status --secret env:NEW", 12),
            ("status --nothing", 2),
            ("nothing", 2),
            ("delete c a", 2),
            ("get c missing", 1),
            ("migrate-from-fernet", 2),
        ],
    )
    def test_fatal_errors(self, migrated: Terminalless, command: str, code: int) -> None:
        """One JSON object with the exit code, the class of the error, its message and its hint."""
        done = migrated(f"--json {command}")

        assert (code, "") == (done.code, done.out)
        assert {"type", "schema", "code", "error", "message", "hint"} == set(done.error)
        assert ("error", 1, code) == (done.error["type"], done.error["schema"], done.error["code"])


class TestExitCodes:
    """Each code is reached by a real invocation; 130 is in test_process.py."""

    @pytest.mark.parametrize(
        ("command", "expected"),
        [
            ("verify", 0),
            ("get c missing", 1),
            ("init", 1),
            ("rotate", 2),
            ("status --store nonsense", 2),
            ("status --secret plain-password", 2),
            ("status --secret env:MISSING", 2),
            ("status --secret file:missing", 2),
            ("status --store python:nowhere:factory", 2),
            ("put c k --ttl soon", 2),
            ("put c k --ttl 999999999999d", 2),
            ("put __vault_meta__ k", 2),
            ("rotate --argon2 1,8", 2),
            ("migrate-from-fernet --source-material env:OLD --yes", 2),
            ("migrate-from-fernet --fernet-key env:OLD --fernet-key env:NEW --yes", 2),
            ("status --store disk:nowhere", 10),
            ("status --store disk:.", 10),
            ("status --secret env:NEW", 12),
        ],
    )
    def test_code(self, migrated: Terminalless, command: str, expected: int) -> None:
        """The code says what kind of end it was."""
        assert expected == migrated(command, stdin="{}").code

    def test_some_failed(self, migrated: Terminalless) -> None:
        """3: finished, but a record failed."""
        harm(migrated.directory)

        assert [3, 3] == [
            migrated(command).code for command in ("verify", "migrate-from-fernet --fernet-key env:OLD --yes")
        ]

    def test_pending(self, vaultctl: Terminalless) -> None:
        """4: --check found work; it wins over 3, because there is something to do first."""
        old_store(Path("kv"), {"a": {"v": 1}, "b": {"v": 2}})
        harm(vaultctl.directory, "b")

        assert 4 == vaultctl("migrate-from-fernet --fernet-key env:OLD --check").code

    def test_exposed_secret_file(self, migrated: Terminalless) -> None:
        """2: a key file that others can read is refused."""
        Path("k").write_text(SECRET)
        Path("k").chmod(0o644)

        assert 2 == migrated("status --secret file:k").code

    def test_the_list_is_complete(self, vaultctl: Terminalless) -> None:
        """`help exit-codes` lists what is defined."""
        listed = [int(line.split()[0]) for line in vaultctl("help exit-codes").out.splitlines()]

        assert list(ExitCode) == listed == [0, 1, 2, 3, 4, 10, 11, 12, 130]


class TestNoPromptWithoutATerminal:
    """Nobody is asked where nobody can answer, and the needed flag is named."""

    def test_confirmation(self, migrated: Terminalless) -> None:
        """A yes on stdin is no yes."""
        done = migrated("delete c a", stdin="y\n")

        assert (2, "") == (done.code, done.out)
        assert "hint: add --yes\n" in done.err
        assert 0 == migrated("inspect c a").code

    @pytest.mark.parametrize(
        "command", ["status --secret prompt:", "rotate --new-secret prompt:", "init --secret prompt:x"]
    )
    def test_secret(self, migrated: Terminalless, command: str) -> None:
        """A passphrase is not read from a pipe."""
        done = migrated(command, stdin=f"{SECRET}\n{SECRET}\n")

        assert (2, "") == (done.code, done.out)
        assert "use env:, file:, fd: or another source" in done.err or "already is a vault" in done.err


FAILING = [
    "status --secret env:NEW",
    "status --secret '{secret}'",
    "status --secret 'env:{secret}x'",
    "migrate-from-fernet --fernet-key env:NEW --yes",
    "migrate-from-fernet --fernet-key env:WRONG --yes --store disk:source",
    "migrate-from-fernet --fernet-key env:OLD --yes --store disk:source --plaintext refuse",
    "migrate-from-fernet --fernet-key '{fernet}' --yes",
    "rotate --new-secret env:EMPTY",
    "put c k --ttl 9d9",
    "put c k",
    "get c damaged",
    "inspect c damaged",
    "inspect c half",
    "verify",
    "init",
    "delete c missing --yes",
    "get c missing",
    "rotate --new-secret prompt:",
    "list --store disk:nowhere",
    "migrate-from-fernet --fernet-key env:OLD --yes --store disk:torn",
]


@pytest.mark.parametrize("command", FAILING)
def test_no_secret_is_shown(migrated: Terminalless, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    """With --debug and without, no secret, key or plaintext is in what a failing command prints."""
    monkeypatch.setenv("WRONG", "YW5vdGhlciBhcHBsaWNhdGlvbidzIEZlcm5ldCBrZXk=")
    monkeypatch.setenv("EMPTY", "")

    async def spoil(store: Any) -> None:
        await store.put("open", {"t": PLAINTEXT}, collection="c")
        await store.put(
            "half", {"__encrypted_data__": PLAINTEXT, "__encryption_version__": 2}, collection="c"
        )
        store._cache.set("c::torn", '{"value": {"t": "' + PLAINTEXT)
        store._cache.set("c::pickled", {"t": PLAINTEXT})

    old_store(Path("source"), {"a": {"t": PLAINTEXT}})
    old_store(Path("torn"), {"a": {"t": PLAINTEXT}, "b": {"t": PLAINTEXT}})
    old_store(Path("kv"), {"damaged": {"t": PLAINTEXT}})
    harm(migrated.directory, "damaged")
    for directory in ("kv", "source", "torn"):
        with_store(migrated.directory / directory, spoil)
    command = command.format(secret=SECRET, fernet=FERNET_KEY)

    shown = ""
    for debug in ("", " --debug", " --debug --json"):
        done = migrated(command + debug, stdin=f'{{"t": "{PLAINTEXT}", ]')
        shown += done.out + done.err
        assert done.code or command.startswith("inspect")

    secrets = [NEW_SECRET, FERNET_KEY, PLAINTEXT, "must-not-be-seen", "must not be seen", SECRET]
    if "env:" + SECRET in command:
        # Whoever puts a secret where the name of a variable belongs has shown it in argv.
        secrets = [NEW_SECRET, FERNET_KEY, PLAINTEXT]
    assert [] == [secret for secret in secrets if secret in shown]
    assert "Traceback" in shown or 3 == done.code or command.startswith("inspect")


class TestOddNames:
    """Names come out of a store that others can write; whatever they hold is shown harmlessly."""

    NAMES = ("[/x]", "[red]text[/red]", "esc\x1b[2Jape", "new\nline", "tab\there", "\u202ertl", "ü🔑")

    @pytest.mark.parametrize("name", NAMES)
    def test_on_disk(self, migrated: Terminalless, name: str) -> None:
        """A record of that name is put, listed, inspected, verified and deleted like any other."""

        async def put(store: Any) -> None:
            await store.put(name, {"__encrypted_data__": "x"}, collection="c")

        with_store(migrated.directory / "kv", put)
        quoted = "'" + name + "'"

        commands = [f"inspect c {quoted}", "list c", "verify", f"delete c {quoted} --yes"]
        every = [migrated(command) for command in commands]

        assert [0, 0, 3, 0] == [done.code for done in every]
        shown = "".join(done.out + done.err for done in every)
        assert shown.replace("\n", "").replace("\t", "").isprintable()
        assert 3 == len(every[1].out.splitlines())

    def test_a_lone_surrogate(self, vaultctl: Terminalless, monkeypatch: pytest.MonkeyPatch) -> None:
        """A name that UTF-8 cannot hold is escaped, as text and as JSON."""
        Path("odd.py").write_text(
            "import asyncio\nfrom key_value.aio.stores.memory import MemoryStore\n"
            "async def make():\n    store = MemoryStore()\n"
            "    await store.put('\\ud800', {'v': 1}, collection='c')\n    return store\n"
        )
        monkeypatch.syspath_prepend(str(vaultctl.directory))
        store = "--store python:odd:make"

        text, data = vaultctl(f"list {store}"), vaultctl(f"list {store} --json")
        refused = vaultctl(f"migrate-from-fernet --fernet-key env:OLD --yes {store} --json")

        assert (0, "c\t\\ud800\n") == (text.code, text.out)
        assert "\ud800" == data.lines[0]["key"]
        assert (1, True) == (refused.code, "c/\ud800" in refused.error["message"])


def test_a_damaged_record_can_be_deleted(migrated: Terminalless) -> None:
    """What no key opens can be removed, sealed records that are no records included."""

    async def spoil(store: Any) -> None:
        await store.put("a", {"__encrypted_data__": "???", "__encryption_version__": 2}, collection="c")

    with_store(migrated.directory / "kv", spoil)

    assert 1 == migrated("inspect c a").code
    assert 0 == migrated("delete c a --dry-run").code
    assert 0 == migrated("delete c a --yes").code
    assert "c\tb\n" == migrated("list").out


class TestFactories:
    """`python:module:factory` serves stores that no URL describes."""

    @pytest.fixture(autouse=True)
    def _module(self, vaultctl: Terminalless, monkeypatch: pytest.MonkeyPatch) -> None:
        Path("stores.py").write_text(FACTORY)
        monkeypatch.syspath_prepend(str(vaultctl.directory))
        monkeypatch.delitem(__import__("sys").modules, "stores", raising=False)

    def test_memory(self, vaultctl: Terminalless) -> None:
        """The application's own store object, wherever it lives."""
        store = "--store python:stores:memory"

        assert 0 == vaultctl(f"init {store} --argon2 1,8,1").code
        assert 0 == vaultctl(f"put c k {store}", stdin='{"v": 1}').code
        assert '{"v":1}\n' == vaultctl(f"get c k {store}").out

    def test_a_stack(self, vaultctl: Terminalless) -> None:
        """Through a stack of wrappers, names are those at the base store."""
        store = "--store python:stores:stack"

        assert 0 == vaultctl(f"init {store} --argon2 1,8,1").code
        assert 0 == vaultctl(f"put tenant__c k {store}", stdin='{"v": 1}').code
        assert '{"v":1}\n' == vaultctl("get tenant__c k --store disk:inner").out

    @pytest.mark.parametrize("factory", ["number", "missing", "not an identifier"])
    def test_no_store(self, vaultctl: Terminalless, factory: str) -> None:
        """A factory that is none is a usage error."""
        done = vaultctl(f"list --store 'python:stores:{factory}'")

        assert (2, "") == (done.code, done.out)


class TestCopies:
    """`--to`: sealed copies in another store."""

    def test_the_whole_way(self, vaultctl: Terminalless) -> None:
        """Dry run, copy, check; the source stays as it was and no confirmation is asked for."""
        old_store(Path("kv"), {"a": {"v": 1}})
        before = contents(vaultctl.directory / "kv")
        command = "migrate-from-fernet --fernet-key env:OLD --to disk:copy --argon2 1,8,1"

        every = [
            vaultctl(f"{command} {options}").code
            for options in ("", "--create-store --check", "--create-store", "--check")
        ]

        assert [10, 4, 0, 0] == every
        assert before == contents(vaultctl.directory / "kv")
        assert '{"v":1}\n' == vaultctl("get c a --store disk:copy").out


def test_ttl(migrated: Terminalless) -> None:
    """A ttl is on the backend and sealed."""
    assert 0 == migrated("put c k --ttl 90s", stdin="{}").code
    (info,) = migrated("inspect c k --json").lines

    assert info["expires_at"] is not None
    assert info["sealed_expires_at"] is not None


def test_notes_are_not_for_quiet_runs(migrated: Terminalless) -> None:
    """--quiet leaves results and errors."""
    loud, quiet = migrated("rotate --argon2 1,8,1"), migrated("rotate --argon2 1,8,1 --quiet")

    assert loud.err
    assert "" == quiet.err
    assert quiet.out


@pytest.mark.processes
def test_completion_knows_every_command(vaultctl: Terminalless) -> None:
    """The scripts name the variable that makes vaultctl complete; the shells are those promised."""
    for shell in ("bash", "zsh", "fish"):
        done: Done = vaultctl(f"completion {shell}")
        assert "_VAULTCTL_COMPLETE" in done.out
    assert isinstance(cli, click.Group)

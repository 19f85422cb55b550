"""The commands that recode, option by option: what goes together, backups, three steps, there and back, recipes."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.fernet import Fernet
from key_value.aio.wrappers.encryption.fernet import FernetEncryptionWrapper
from tests.cli.harness import FERNET_KEY, SECRET, Terminalless, old_store, with_store
from tests.cli.test_contract import contents, harm
from tests.fakes import HookedDriver
from tests.test_migrations import FOLDERS, expectations, thawed

from kvseal import EnvelopeEncryptionWrapper, Secret, Vault
from kvseal.drivers import driver_for
from kvseal.legacy import FernetCodec
from kvseal.legacy.fernet import parse_key
from kvseal.recoding import open_recode, plan_rollback, recode
from kvseal.recoding.progress.lease import Lease
from kvseal.recoding.report import Tally

if TYPE_CHECKING:
    from collections.abc import Callable

VALUES = {"a": {"t": "one"}, "b": {"n": 2}, "c": {"n": 3}}
MIGRATE = "migrate-from-fernet --fernet-key env:OLD --yes --argon2 1,8,1"
CLIENT_KEY = (
    "--fastmcp-encryption-key file:{}/keys/encryption.key --fastmcp-server-url https://mcp.example.com/mcp "
    "--fastmcp-server-url https://tools.example.org/"
)
AUTHSOME = [folder for folder in FOLDERS if "authsome" in folder]
GENERAL = [folder for folder in FOLDERS if folder >= "0018" and "kvseal" not in folder]
FERNET = [
    folder
    for folder in FOLDERS
    if "authsome" not in folder and "kvseal" not in folder and folder not in GENERAL
]


@pytest.fixture
def old(vaultctl: Terminalless, monkeypatch: pytest.MonkeyPatch) -> Terminalless:
    """Return vaultctl in a directory with three old records."""
    old_store(Path("kv"), VALUES)
    monkeypatch.setenv("WRONG", Fernet.generate_key().decode())
    return vaultctl


def read_sealed(key: str = "a") -> Any:
    """Return what the new application reads at *key*."""
    return with_store(
        Path("kv"),
        lambda store: EnvelopeEncryptionWrapper(store, secret=Secret(SECRET.encode()), create=False).get(
            key, collection="c"
        ),
    )


def read_old(store: Path, key: str = "a") -> Any:
    """Return what the old application reads at *key*."""
    return with_store(
        store,
        lambda inner: FernetEncryptionWrapper(inner, fernet=Fernet(FERNET_KEY)).get(key, collection="c"),
    )


class TestContradictions:
    """Options that do not go together are a mistake, told before anything is touched."""

    @pytest.mark.parametrize(
        ("options", "names"),
        [
            ("--backup b --no-backup", ("--backup", "--no-backup")),
            ("--to disk:new --backup b", ("--to", "--backup")),
            ("--to disk:new --finalize", ("--to", "--finalize")),
            ("--to disk:new --import-keys", ("--to", "--import-keys")),
            ("--partition 1/2 --workers 2 --no-backup", ("--partition", "--workers")),
            ("--partition 1/2 --finalize --no-backup", ("--partition", "--finalize")),
            ("--import-keys --finalize", ("--import-keys", "--finalize")),
            ("--import-keys --partition 1/2", ("--import-keys", "--partition")),
            ("--import-keys --workers 2", ("--import-keys", "--workers")),
            ("--partition 1/2", ("vaultctl backup FILE", "--no-backup")),
        ],
    )
    def test_they_are_named(self, old: Terminalless, options: str, names: tuple[str, str]) -> None:
        """The message names both."""
        before = contents(old.directory)

        done = old(f"{MIGRATE} {options}")

        assert (2, "") == (done.code, done.out)
        assert [] == [name for name in names if name not in done.err]
        assert done.err.startswith("vaultctl: error: ")
        assert before == contents(old.directory)

    @pytest.mark.parametrize("part", ["0/2", "3/2", "1/0", "1/1025", "1", "a/b", "-1/2", "1/2/3"])
    def test_no_such_part(self, old: Terminalless, part: str) -> None:
        """A part counts from 1 to n."""
        done = old(f"{MIGRATE} --no-backup --partition {part}")

        assert (2, "") == (done.code, done.out)
        assert "is not a part such as 1/4" in done.err or "No such option" in done.err

    @pytest.mark.parametrize(
        "keys",
        [
            "--fernet-key env:OLD --fastmcp-client-secret env:OLD",
            "--fastmcp-signing-key env:OLD --fastmcp-client-secret env:OLD",
            "--source-material env:OLD",
            "--salt env:OLD",
        ],
    )
    def test_keys_of_two_vaults(self, old: Terminalless, keys: str) -> None:
        """Which vault is meant is not guessed."""
        done = old(f"migrate-from-fernet {keys} --yes")

        assert (2, "") == (done.code, done.out)
        assert "hint: give " in done.err

    @pytest.mark.parametrize("reference", ["prompt:", "prompt:Passphrase", "fd:0"])
    @pytest.mark.parametrize("where", ["flag", "=", "environment", "recipe"])
    def test_workers_and_secrets_of_one_use(
        self, old: Terminalless, monkeypatch: pytest.MonkeyPatch, reference: str, where: str
    ) -> None:
        """What one process alone can read is refused before a vault is made, wherever it is named."""
        before = contents(old.directory)
        option = {"flag": f"--secret {reference}", "=": f"--secret={reference}"}.get(where, "")
        if where == "environment":
            monkeypatch.setenv("VAULTCTL_SECRET", reference)
        if where == "recipe":
            recipe = old.directory.parent / "recipe.toml"
            recipe.write_text(f'[source]\nformat = "fernet"\nkeys = ["env:OLD", "{reference}"]\n')
            recipe.chmod(0o600)
            done = old(f"migrate-from-fernet --recipe {recipe} --yes --workers 2")
        else:
            done = old(f"{MIGRATE} --workers 2 {option}")

        assert (2, "") == (done.code, done.out)
        assert f"{reference.partition(':')[0]}: can be read by one process" in done.err
        assert "--workers" in done.err
        assert before == contents(old.directory)


def test_three_steps(old: Terminalless) -> None:
    """Keys are imported, records sealed and the end of old reads set by three commands that say what is next."""
    imported = old("migrate-from-fernet --fernet-key env:OLD --import-keys --argon2 1,8,1")
    held = old("status --json").lines[0]
    both = read_old(Path("kv")), read_sealed()
    sealed = old("migrate-from-fernet --yes")
    finalized = old("migrate-from-fernet --finalize --yes --no-backup")
    ended = old("status --json").lines[0]

    assert [0, 0, 0] == [imported.code, sealed.code, finalized.code]
    assert (1, True) == (len(held["legacy"]), held["policy"]["read_legacy"])
    assert (VALUES["a"], VALUES["a"]) == both
    assert "next: deploy EnvelopeEncryptionWrapper everywhere" in imported.err
    assert "next: run this with --finalize" in sealed.err
    assert "finalized: nothing old is left" in finalized.err
    assert "next: this again after 20" in finalized.err
    assert (1, False) == (len(ended["legacy"]), ended["policy"]["read_legacy"])
    at_once = old("migrate-from-fernet --finalize --grace 0 --yes --no-backup")
    assert (0, True) == (at_once.code, "the old keys are dropped" in at_once.err)
    assert [] == old("status --json").lines[0]["legacy"]


def test_importing_no_key(old: Terminalless) -> None:
    """There has to be a key to import."""
    done = old("migrate-from-fernet --import-keys")

    assert (2, "") == (done.code, done.out)
    assert "no keys to import were given" in done.err
    assert "--fernet-key" in done.err


def test_finalizing_is_refused_while_a_record_fails(old: Terminalless) -> None:
    """A record that no key opens may need the old key, so old reads go on."""
    old("migrate-from-fernet --fernet-key env:OLD --import-keys --argon2 1,8,1")
    harm(old.directory)

    done = old("migrate-from-fernet --finalize --yes --no-backup")

    assert 3 == done.code
    assert "finalized" not in done.err
    assert 1 == len(old("status --json").lines[0]["legacy"])


class TestBackup:
    """In place, a backup comes before the first write."""

    def restored(self, vaultctl: Terminalless, file: Path) -> Any:
        """Return what the old application reads in a store that *file* is restored into."""
        assert 0 == vaultctl(f"restore {file} --store disk:again --create-store").code
        return read_old(Path("again"))

    def test_by_default(self, old: Terminalless) -> None:
        """It lies in the current directory, for its owner alone, and holds what was there before."""
        done = old(MIGRATE)

        (file,) = old.directory.glob("before-*.kvseal")
        assert 0 == done.code
        assert f"backup: 3 entries are in {file.name}" in done.err
        assert 0 == file.stat().st_mode & 0o077
        assert VALUES["a"] == self.restored(old, file)

    def test_a_file(self, old: Terminalless) -> None:
        """It lies where `--backup` says; a file that is there is never overwritten, and then nothing is changed."""
        Path("taken").write_text("something else")
        before = contents(old.directory)
        refused = old(f"{MIGRATE} --backup taken")
        assert before == contents(old.directory)

        done = old(f"{MIGRATE} --backup mine.kvseal")

        assert (2, 0) == (refused.code, done.code)
        assert [] == [*old.directory.glob("before-*")]
        assert VALUES["a"] == self.restored(old, Path("mine.kvseal"))

    @pytest.mark.parametrize(
        "options", ["--no-backup", "--to disk:new --create-store", "--dry-run", "--check"]
    )
    def test_none(self, old: Terminalless, options: str) -> None:
        """Where nothing is changed, or nobody wants one, there is none."""
        assert old(f"{MIGRATE} {options}").code in {0, 4}
        assert [] == [*old.directory.glob("*.kvseal")]

    def test_of_a_second_run(self, old: Terminalless) -> None:
        """A run that finds nothing to do takes none."""
        old(MIGRATE)
        assert 0 == old(MIGRATE).code
        assert 1 == len([*old.directory.glob("before-*")])

    def test_of_a_rollback_that_goes_on(self, old: Terminalless) -> None:
        """The very command that was stopped goes on, with the backup that it has taken."""
        old(f"{MIGRATE} --no-backup")
        command = "migrate-to-fernet --fernet-key env:OLD --yes --backup sealed.kvseal"
        Path("sealed.kvseal").write_text("what the first run has written")
        assert 2 == old(command).code

        async def stop(store: Any) -> None:
            vault = await Vault.open(store, secret=Secret(SECRET.encode()))
            plan = replace(plan_rollback(vault, FernetCodec([parse_key(FERNET_KEY.encode())])), prepared=True)

            async def around(name: str, do: Any) -> Any:
                if name == "scan":
                    raise asyncio.CancelledError
                return await do()

            with pytest.raises(asyncio.CancelledError):
                await recode(HookedDriver(driver_for(store), around), plan)
            await vault.close()

        with_store(Path("kv"), stop)

        assert 0 == old(command).code
        assert "what the first run has written" == Path("sealed.kvseal").read_text()

    def taken(self, vaultctl: Terminalless) -> bytes:
        """Take the backup that a run which is killed right after it leaves, and return it."""
        assert 0 == vaultctl("backup mine.kvseal").code
        return Path("mine.kvseal").read_bytes()

    @pytest.mark.parametrize(
        "command", [MIGRATE, "migrate-to-fernet --fernet-key env:OLD --yes", "reencrypt --yes"]
    )
    def test_of_a_run_that_was_killed_after_it(self, old: Terminalless, command: str) -> None:
        """The same command adopts the finished backup that holds what the store holds, and goes on."""
        if command != MIGRATE:
            old(f"{MIGRATE} --no-backup")
        before = self.taken(old)

        done = old(f"{command} --backup mine.kvseal")

        entries = 3 if command == MIGRATE else 4
        assert 0 == done.code
        assert f"backup: adopted, {entries} entries are in mine.kvseal" in done.err
        assert before == Path("mine.kvseal").read_bytes()
        assert ["mine.kvseal"] == [path.name for path in old.directory.glob("*.kvseal")]

    def test_of_a_run_that_was_killed_after_the_vault(self, old: Terminalless) -> None:
        """The vault meta, which is written between backup and first record, does not count as a change."""
        self.taken(old)
        assert 0 == old("init --argon2 1,8,1").code

        done = old(f"{MIGRATE} --backup mine.kvseal --json")

        assert (0, "mine.kvseal") == (done.code, done.lines[0]["file"])
        assert 1 == len([*old.directory.glob("*.kvseal")])

    @pytest.mark.parametrize("change", ["changed", "added", "removed"])
    def test_of_a_store_that_has_changed(self, old: Terminalless, change: str) -> None:
        """A backup that lacks the last changes is kept and not relied on: a new one gets a name of its own."""
        before = self.taken(old)
        if change == "removed":
            with_store(Path("kv"), lambda store: store.delete("b", collection="c"))
        else:
            old_store(Path("kv"), {"a" if change == "changed" else "d": {"t": "later"}})

        done = old(f"{MIGRATE} --backup mine.kvseal")

        assert 0 == done.code
        assert before == Path("mine.kvseal").read_bytes()
        assert "mine.kvseal is a backup from before the store's last changes" in done.err
        assert "entries are in mine-2.kvseal" in done.err
        expected = {"changed": {"t": "later"}, "added": VALUES["a"], "removed": VALUES["a"]}[change]
        assert expected == self.restored(old, Path("mine-2.kvseal"))

    @pytest.mark.parametrize("what", ["cut", "damaged", "another store's", "directory"])
    def test_what_is_no_backup_of_this_store(self, old: Terminalless, what: str) -> None:
        """It is refused before the survey: the keys, which fit nothing, are not even tried."""
        taken = self.taken(old)
        Path("mine.kvseal").unlink()
        if what == "directory":
            Path("mine.kvseal").mkdir()
        elif what == "another store's":
            old_store(Path("other"), VALUES)
            assert 0 == old("backup mine.kvseal --store disk:other").code
        else:
            Path("mine.kvseal").write_bytes(taken[:-9] if what == "cut" else taken[:-20] + bytes(20))
        before = contents(old.directory)

        done = old(f"{MIGRATE.replace('env:OLD', 'env:WRONG')} --backup mine.kvseal")

        assert (2, "") == (done.code, done.out)
        assert "mine.kvseal" in done.err or "cannot be read" in done.err
        assert before == contents(old.directory)

    def test_before_a_rollback(self, old: Terminalless) -> None:
        """The way back takes one, too."""
        old(f"{MIGRATE} --no-backup")
        assert 0 == old("migrate-to-fernet --fernet-key env:OLD --yes --backup sealed.kvseal").code
        assert 0 == old("restore sealed.kvseal --store disk:again --create-store").code
        assert '{"t":"one"}\n' == old("get c a --store disk:again").out


class TestToFernet:
    """The way back, read by the very wrapper of py-key-value."""

    @pytest.mark.parametrize("to", ["", "--to disk:back --create-store"])
    def test_there_and_back(self, old: Terminalless, to: str) -> None:
        """Every value is what it was, in place or in another store."""
        old(f"{MIGRATE} --no-backup")

        dry = old(f"migrate-to-fernet --fernet-key env:OLD --yes --check {to}")
        done = old(f"migrate-to-fernet --fernet-key env:OLD --yes {to}")

        store = Path("back" if to else "kv")
        assert (4, 0) == (dry.code, done.code)
        assert VALUES == {key: read_old(store, key) for key in VALUES}
        assert "next: deploy FernetEncryptionWrapper" in done.err

    def test_what_does_not_open(self, old: Terminalless) -> None:
        """A damaged record stays sealed and is named."""
        old(f"{MIGRATE} --no-backup")
        harm(old.directory, "b")

        done = old("migrate-to-fernet --fernet-key env:OLD --yes --no-backup")

        assert 3 == done.code
        assert "failed: c/b: TamperedRecordError" in done.err
        assert VALUES["a"] == read_old(Path("kv"))

    @pytest.mark.parametrize(
        ("command", "code"), [("migrate-to-fernet --yes", 2), ("migrate-to-fernet --fernet-key env:OLD", 2)]
    )
    def test_what_it_needs(self, old: Terminalless, command: str, code: int) -> None:
        """A key, and a yes."""
        old(f"{MIGRATE} --no-backup")

        assert code == old(command).code


@pytest.fixture
def frozen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Return what thaws a folder of `migrations/`, whose recipe alone says which store."""
    # The recipe has to win over the environment: a rehearsal must not touch what runs.
    monkeypatch.setenv("VAULTCTL_STORE", "disk:production")
    monkeypatch.setenv("VAULTCTL_SECRET", "env:NOT_THIS_ONE")

    return lambda folder: thawed(folder, tmp_path)


def expected_counts(folder: str) -> dict[str, int]:
    """Return what the report has to count."""
    expected = expectations(folder)
    return {
        "scanned": len(expected),
        "changed": len([e for e in expected if e.is_sealed]),
        "skipped": len([e for e in expected if e.skipped]),
        "failed": len([e for e in expected if e.is_lost]),
    }


class TestRecipes:
    """Every folder of `migrations/`, by the command that its recipe is for."""

    @pytest.mark.parametrize("folder", [*FERNET, *AUTHSOME, *GENERAL])
    @pytest.mark.exhaustive
    def test_migration(self, vaultctl: Terminalless, frozen: Callable[[str], Path], folder: str) -> None:
        """The recipe alone says everything; a second run has nothing left to do, and verify finds the rest in order."""
        recipe = frozen(folder) / "recipe.toml"
        command = "migrate-from-authsome" if folder in AUTHSOME else "migrate-from-fernet"
        command = "migrate" if folder in GENERAL else command

        done = vaultctl(f"{command} --recipe {recipe} --yes --json")
        again = vaultctl(f"{command} --recipe {recipe} --yes --json")

        counts = expected_counts(folder)
        summary, second = done.lines[-1], again.lines[-1]
        assert counts == {name: summary[name] for name in counts}
        assert (3 if counts["failed"] else 0) == done.code == again.code
        assert (0, counts["changed"]) == (second["changed"], second["already"])
        assert counts["failed"] == len([line for line in done.lines if line["type"] == "failure"])

    @pytest.mark.parametrize("folder", [folder for folder in FOLDERS if "kvseal" in folder])
    def test_nothing_to_migrate(
        self, vaultctl: Terminalless, frozen: Callable[[str], Path], folder: str
    ) -> None:
        """A recipe for another command is refused by its format."""
        recipe = frozen(folder) / "recipe.toml"

        for command in ("migrate-from-fernet", "migrate-from-authsome", "migrate"):
            done = vaultctl(f"{command} --recipe {recipe} --yes")
            assert (2, "") == (done.code, done.out)
            assert "is not a recipe for this command, but for kvseal" in done.err

    @pytest.mark.parametrize("folder", GENERAL)
    def test_a_recipe_of_the_general_command(
        self, vaultctl: Terminalless, frozen: Callable[[str], Path], folder: str
    ) -> None:
        """The commands of the well-known cases refuse it, and the general one takes it there and back."""
        recipe = frozen(folder) / "recipe.toml"

        for command in ("migrate-from-fernet", "migrate-from-authsome"):
            assert 2 == vaultctl(f"{command} --recipe {recipe} --yes").code
        there = vaultctl(f"migrate --recipe {recipe} --yes --json")
        back = vaultctl(f"migrate-back --recipe {recipe} --yes --json")
        again = vaultctl(f"migrate --recipe {recipe} --yes --json --no-backup")

        changed = [done.lines[-1]["changed"] for done in (there, back, again)]
        assert [expected_counts(folder)["changed"]] * 3 == changed

    def test_flags_win(self, vaultctl: Terminalless, frozen: Callable[[str], Path]) -> None:
        """A flag beats the recipe, and what the recipe says against it; the environment does not."""
        recipe = frozen("0003-fernet-0.5") / "recipe.toml"
        recipe.write_text(recipe.read_text() + "backup = false\nfinalize = true\n[run]\nworkers = 2\n")
        old_store(Path("mine"), VALUES)
        command = f"migrate-from-fernet --recipe {recipe} --yes --json"

        mine = "--store disk:mine --fernet-key env:OLD --secret env:KVSEAL_MASTER_KEY"
        done = vaultctl(f"{command} {mine} --backup mine.kvseal --partition 1/1 --dry-run")
        imported = vaultctl(f"{command} {mine} --import-keys")
        wrong = vaultctl(f"{command} --fernet-key env:OLD --workers 1")

        assert (0, 3) == (done.code, done.lines[-1]["scanned"])
        assert (0, "") == (imported.code, imported.err)
        assert (1, "WrongLegacyKeyError") == (wrong.code, wrong.error["error"])


@pytest.mark.parametrize("there", ["kv/../kv", "link", "{}/kv"])
def test_a_store_is_not_copied_onto_itself(old: Terminalless, there: str) -> None:
    """However its path is written, it is found out before anything is written."""
    Path("link").symlink_to("kv")
    before = contents(old.directory)

    done = old(f"{MIGRATE} --to disk:{there.format(old.directory)}")

    assert (2, before) == (done.code, contents(old.directory))
    assert "names the store that is to be migrated itself" in done.err


class TestAuthsome:
    """The same folders with options instead of recipes."""

    def test_workers(self, vaultctl: Terminalless, frozen: Callable[[str], Path]) -> None:
        """A recipe with several workers is refused here, too: authsome's store has one writer."""
        recipe = frozen("0009-authsome-0.5-envelope") / "recipe.toml"
        recipe.write_text(re.sub("workers = .*", "workers = 2", recipe.read_text()))

        done = vaultctl(f"migrate-from-authsome --recipe {recipe} --yes --json")

        assert (2, "") == (done.code, done.out)
        assert "has one writer at a time" in done.error["message"]

    @pytest.mark.parametrize("folder", AUTHSOME)
    def test_key_file(
        self,
        vaultctl: Terminalless,
        frozen: Callable[[str], Path],
        monkeypatch: pytest.MonkeyPatch,
        folder: str,
    ) -> None:
        """The store, and authsome's own key file."""
        monkeypatch.delenv("VAULTCTL_SECRET")
        copy = frozen(folder)
        command = f"migrate-from-authsome --store disk:{copy}/vault --yes --argon2 1,8,1 --json"

        nothing = vaultctl(command)
        done = vaultctl(f"{command} --authsome-key-file {copy}/keys/master.key")

        counts = expected_counts(folder)
        assert (2, "--authsome-key-file" in nothing.error["hint"]) == (nothing.code, True)
        assert counts == {name: done.lines[-1][name] for name in counts}


class TestFastMCP:
    """Which store belongs to a secret, FastMCP says by its fingerprint."""

    @pytest.mark.parametrize(
        ("folder", "option"),
        [
            ("0005-fastmcp-2.13-disk", "--fastmcp-client-secret file:{}/keys/client.secret"),
            ("0006-fastmcp-3-filetree", "--fastmcp-signing-key file:{}/keys/signing.key"),
            ("0007-fastmcp-cli", CLIENT_KEY),
        ],
    )
    def test_it_is_found(
        self,
        vaultctl: Terminalless,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        folder: str,
        option: str,
    ) -> None:
        """Without `--store`, the store of the secret is looked for in FastMCP's home, and told."""
        copy = thawed(folder, tmp_path)
        monkeypatch.delenv("VAULTCTL_STORE")
        monkeypatch.setenv("FASTMCP_HOME", str(copy / "vault"))

        done = vaultctl(f"migrate-from-fernet {option.format(copy)} --yes --argon2 1,8,1")
        counts = expected_counts(folder)

        assert (3 if counts["failed"] else 0) == done.code, done.err
        assert (
            f"this key belongs to the store {'disk' if '0005' in folder else 'filetree'}:{copy}/vault/"
            in done.err
        )
        assert f"{counts['scanned']} records, {counts['changed']} re-sealed" in done.out

    def test_another_secret(
        self, vaultctl: Terminalless, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A wrong secret is an error that names its fingerprint and those that are there; nothing is written."""
        copy = thawed("0006-fastmcp-3-filetree", tmp_path)
        monkeypatch.delenv("VAULTCTL_STORE")
        monkeypatch.setenv("FASTMCP_HOME", str(copy / "vault"))
        before = contents(tmp_path)

        done = vaultctl("migrate-from-fernet --fastmcp-client-secret env:OLD --yes")

        assert (10, "") == (done.code, done.out)
        assert "no store with the fingerprint " in done.err
        assert "these exist: 9d70f564400a" in done.err
        assert before == contents(tmp_path)


def test_status_shows_an_open_recode(old: Terminalless) -> None:
    """What was begun and stopped, and who is at work, is told in both forms; in the end there is nothing."""
    assert 0 == old("init --argon2 1,8,1").code

    async def stop(store: Any, *, release: bool) -> None:
        vault = await Vault.open(store, secret=Secret(SECRET.encode()))
        lease = Lease(vault, "a plan", "migrate-from-fernet", (0, 2))
        await lease.acquire()
        lease.note("c/a", Tally(scanned=2, changed=2))
        if release:
            await lease.release()
        assert await open_recode(vault) is not None
        await vault.close()

    with_store(Path("kv"), lambda store: stop(store, release=True))
    stopped, shown = old("status --json").lines[0]["recode"], old("status")
    with_store(Path("kv"), lambda store: stop(store, release=False))
    (running,) = old("status --json").lines[0]["recode"]["holders"]
    at_work = old("status")

    fields = ("command", "parts", "done", "scanned", "holders")
    assert ("migrate-from-fernet", 2, 0, 2, []) == tuple(stopped[name] for name in fields)
    assert "open: migrate-from-fernet, begun " in shown.err
    assert "stopped; the same command goes on with it" in shown.err
    assert running.startswith("process ")
    assert f"being done by {running}" in at_work.err


def test_another_recode_is_at_work(old: Terminalless) -> None:
    """Whoever else wants to recode meanwhile is told who does, with the exit code for that."""
    assert 0 == old("init --argon2 1,8,1").code

    async def hold(store: Any) -> None:
        vault = await Vault.open(store, secret=Secret(SECRET.encode()))
        await Lease(vault, "another plan", "reencrypt", (0, 1)).acquire()
        await vault.close()

    with_store(Path("kv"), hold)
    done = old(f"{MIGRATE} --no-backup")

    assert (11, "") == (done.code, done.out)
    assert "reencrypt is being run on this vault by process " in done.err
    assert "hint: wait for it, or stop it" in done.err
    assert VALUES["a"] == read_old(Path("kv"))

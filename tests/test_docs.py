"""Every example in the README and the runbooks is run, in order, as a reader would run it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from cryptography.fernet import Fernet
from key_value.aio.stores.disk import DiskStore
from key_value.aio.wrappers.encryption import FernetEncryptionWrapper

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: str) -> list[tuple[str, str]]:
    """Return (language, text) of the fenced blocks of *page*."""
    return BLOCK.findall((ROOT / page).read_text(encoding="utf-8"))


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
    """Return the environment of somebody who has just installed kvseal."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    home = tmp_path / "home"
    home.mkdir()
    return {"PATH": path, "HOME": str(home), "OLD_FERNET_KEY": fernet_key.decode(), "LANG": "C.UTF-8"}


async def add_legacy_records(directory: Path, fernet_key: bytes) -> None:
    """Let the old application write two records."""
    store = DiskStore(directory=directory)
    old = FernetEncryptionWrapper(key_value=store, fernet=Fernet(fernet_key))
    await old.put("legacy-1", {"access_token": "one"}, collection="sessions", ttl=3600)
    await old.put("legacy-2", {"access_token": "two"}, collection="sessions")
    await store.close()


async def follow(page: str, tmp_path: Path) -> str:
    """Run the blocks of *page* in order, in an old application's surroundings, and return what they print."""
    key = Fernet.generate_key()
    work, environment = tmp_path / "work", reader(tmp_path, key)
    work.mkdir()
    printed = []
    for language, text in blocks(page):
        if "migrate-from-fernet" in text:
            await add_legacy_records(work / "kv", key)
        printed.append(run(language, text, work, environment))
    return "".join(printed)


async def test_readme(tmp_path: Path) -> None:
    """The README's examples work in the order in which they stand."""
    printed = await follow("README.md", tmp_path)

    assert "{'access_token': '…'}" in printed
    assert "verify: 3 records" in printed


async def test_operations(tmp_path: Path) -> None:
    """The runbooks work in the order in which they stand."""
    printed = await follow("docs/operations.md", tmp_path)

    assert "restore: 3 entries, 3 restored" in printed
    assert "verify: 2 records" in printed
    assert "DEK 1 is retired: none of" in printed
    assert "(0, 0, 0)" in printed


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

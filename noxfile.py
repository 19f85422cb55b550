"""
The tests on other Pythons and with other releases of py-key-value-aio; `nox --list` shows the sessions.

A session needs its interpreter and nothing else, on the PATH or among pyenv's. `tests` and `quick` run all
tests or the quick ones, on every pair whose interpreter is there. `smoke` runs the quick tests on the oldest
pair and on the newest one, as CI does.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import nox

PYTHONS = ("3.10", "3.11", "3.12", "3.13")
STORES = ("0.4.5", "0.4.6", "0.5.0")
"""Releases of py-key-value-aio. The last one is that of constraints.txt."""

QUICK = "not servers and not processes and not exhaustive and not long"
BOTH_CORES = ("-n", "2", "--dist", "worksteal")
PINNED = re.compile(r"^py-key-value-aio==.*$", re.MULTILINE)
AWS = re.compile(
    r"^(?:aiobotocore|boto3|botocore|s3transfer|types-aiobotocore-[a-z0-9]+)==.*\n", re.MULTILINE
)
"""Before 0.5 the stores of AWS need aioboto3, each of whose releases wants others of these."""
PYENV = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"


def with_pyenv(path: str) -> str:
    """Return *path* with pyenv's interpreters in front: its shims start none that the user has not chosen."""
    found = [folder / "bin" for folder in PYENV.glob("3.*") if (folder / "bin" / "python3").exists()]
    return os.pathsep.join([*map(str, sorted(found)), path])


os.environ["PATH"] = with_pyenv(os.environ["PATH"])
INSTALLED = [version for version in PYTHONS if shutil.which(f"python{version}")]
OLDEST_AND_NEWEST = [(INSTALLED[0], STORES[0]), (INSTALLED[-1], STORES[-1])]

nox.needs_version = ">=2024.4.15"
nox.options.sessions = ["smoke"]


def install(session: nox.Session, store: str) -> None:
    """Install kvseal as constraints.txt says, but for the release of py-key-value-aio."""
    pinned = Path("constraints.txt").read_text(encoding="utf-8")
    pinned = AWS.sub("", pinned) if store.startswith("0.4.") else pinned
    constraints = Path(session.create_tmp()) / "constraints.txt"
    constraints.write_text(PINNED.sub(f"py-key-value-aio=={store}", pinned), encoding="utf-8")
    session.install("--quiet", "--constraint", str(constraints), "--editable", ".", "--group", "test")
    session.run("python", "-c", _SAY, silent=False)


_SAY = (
    "import platform; from importlib.metadata import version; "
    "print('Python', platform.python_version(), 'with py-key-value-aio', version('py-key-value-aio'))"
)


@nox.session(python=PYTHONS)
@nox.parametrize("store", STORES)
def tests(session: nox.Session, store: str) -> None:
    """Run all tests, or those that are named behind `--`."""
    install(session, store)
    session.run("pytest", *(session.posargs or BOTH_CORES))


@nox.session(python=PYTHONS)
@nox.parametrize("store", STORES)
def quick(session: nox.Session, store: str) -> None:
    """Run the tests of `make check`."""
    install(session, store)
    session.run("pytest", *BOTH_CORES, "-m", QUICK, *session.posargs)


@nox.session
@nox.parametrize(("python", "store"), OLDEST_AND_NEWEST)
def smoke(session: nox.Session, store: str) -> None:
    """Run the tests of `make check` on the oldest pair and on the newest one."""
    install(session, store)
    session.run("pytest", *BOTH_CORES, "-m", QUICK, *session.posargs)

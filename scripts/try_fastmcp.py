"""
A real FastMCP server moves to kvseal, and its clients notice nothing.

    python scripts/try_fastmcp.py [--fastmcp ==VERSION] [--issued-by ==VERSION] DIRECTORY

Builds environments of their own below DIRECTORY with FastMCP and this kvseal, and writes nowhere else.
With `--issued-by ==2.13.3` an older FastMCP issues the tokens, which takes the server from one to the
other on its way.
Then, against a small OAuth server on 127.0.0.1:

1. a FastMCP server with its default store issues tokens to two clients, and stops;
2. its store is found by the client secret, and migrated in place;
3. the server starts again, on the same store behind `EnvelopeEncryptionWrapper`: the access tokens
   are still accepted, a refresh works, nobody registers again, and a new client can log in;
4. everything is rotated as after a leak: secret, DEK, every record, and the old DEKs are dropped; the store
   loses names, and no list of them is given; the server goes on;
5. to show that this proves something, the server starts once more without kvseal: now the same
   tokens are refused, and no stored record opens with the old key.

Exits with 0 only if all of it is so.  Needs Python 3.10 or newer and a package index.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import secrets
import shutil
import socket
import subprocess
import sys
import venv
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "migrations"))

import fastmcp_flow as flow  # noqa: E402 - it lies beside the vaults that it is written for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kvseal.drivers.base import Entry
    from kvseal.recoding import Report

ACCEPTED, REFUSED = 200, 401


def build(home: Path, release: str, *, kvseal: bool = True) -> Path:
    """Return the Python of the environment *home* with FastMCP and, unless told otherwise, this kvseal."""
    python = home / "bin" / "python"
    if not python.exists():
        venv.create(home, with_pip=True)
    pip = [str(python), "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
    subprocess.run([*pip, f"fastmcp{release}", *([f"{ROOT}[disk,filetree]"] if kvseal else [])], check=True)
    if kvseal:
        subprocess.run([*pip, "--no-deps", "--force-reinstall", str(ROOT)], check=True)
    return python


def serve(arguments: argparse.Namespace) -> None:
    """Run the server on a socket that is open already, with FastMCP's own store or with kvseal's wrapper."""
    import uvicorn  # noqa: PLC0415 - comes with FastMCP

    listening = socket.socket(fileno=arguments.fd)
    base_url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    secret = os.environ["TRY_CLIENT_SECRET"]
    storage = None if arguments.store is None else sealed(arguments.store)
    mcp = flow.server(arguments.upstream, secret, base_url, client_storage=storage)
    config = uvicorn.Config(mcp.http_app(), log_level="warning")
    uvicorn.Server(config).run(sockets=[listening])


def sealed(url: str) -> Any:
    """Return what an application passes as `client_storage` once it is on kvseal."""
    from kvseal import EnvelopeEncryptionWrapper  # noqa: PLC0415 - in the environment that `build` made

    return EnvelopeEncryptionWrapper(key_value=store_at(url), secret="env:KVSEAL_MASTER_KEY", create=False)


def store_at(url: str) -> Any:
    """Return the store that FastMCP makes at *url* by default, with the same rules for names."""
    scheme, _, path = url.partition("?")[0].partition(":")
    if scheme == "disk":
        from key_value.aio.stores.disk import DiskStore  # noqa: PLC0415

        return DiskStore(directory=path)
    from key_value.aio.stores.filetree import (  # noqa: PLC0415
        FileTreeStore,
        FileTreeV1CollectionSanitizationStrategy,
        FileTreeV1KeySanitizationStrategy,
    )

    directory = Path(path)
    return FileTreeStore(
        data_directory=directory,
        key_sanitization_strategy=FileTreeV1KeySanitizationStrategy(directory),
        collection_sanitization_strategy=FileTreeV1CollectionSanitizationStrategy(directory),
    )


@contextmanager
def running(
    listening: socket.socket, upstream: str, *more: str, python: str = sys.executable
) -> Iterator[None]:
    """Run a server process on *listening* for the time of the block, and wait for its end."""
    command = [python, __file__, "--fd", str(listening.fileno()), "--upstream", upstream, *more]
    process = subprocess.Popen(command, pass_fds=[listening.fileno()])
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def check(promise: str, expected: object, actual: object) -> None:
    """Print a promise that holds; end the trial at one that does not."""
    if expected != actual:
        sys.exit(f"NOT SO: {promise}: {actual!r} instead of {expected!r}")
    print(f"ok: {promise}")


async def migrate(home: Path, secret: bytes) -> tuple[str, Report]:
    """Find the store by the secret and migrate it; return its URL and the report."""
    from kvseal import Argon2idParams  # noqa: PLC0415
    from kvseal.legacy import FastMCPCodec  # noqa: PLC0415
    from kvseal.legacy.fastmcp import key_of_client_secret  # noqa: PLC0415
    from kvseal.legacy.fastmcp_places import existing, proxy_places  # noqa: PLC0415
    from kvseal.legacy.fernet import parse_key  # noqa: PLC0415
    from kvseal.recoding import migrate as migrate_store  # noqa: PLC0415

    key = key_of_client_secret(secret)
    (place,) = existing(proxy_places(home, key))
    codec = FastMCPCodec([parse_key(key)])
    cheap = Argon2idParams(time_cost=1, memory_cost=8, parallelism=1)
    done = await migrate_store(store_at(place.url), [codec], secret="env:KVSEAL_MASTER_KEY", kdf=cheap)
    if done.report is None:
        raise AssertionError
    for failure in done.report.failures:
        print(f"   {failure.collection}/{failure.key}: {failure.reason}")
    return place.url, done.report


async def rotate_all(url: str) -> dict[str, int]:
    """Rotate the secret and the DEK, re-encrypt, retire every older DEK; return what failed at each step."""
    from kvseal import Vault  # noqa: PLC0415
    from kvseal.recoding import plan_reencryption, recode, retire, verify  # noqa: PLC0415

    store, secret = store_at(url), secrets.token_urlsafe(32)
    vault = await Vault.open(store, secret="env:KVSEAL_MASTER_KEY")
    os.environ["KVSEAL_NEXT_KEY"] = secret
    await vault.rotate(new_secret="env:KVSEAL_NEXT_KEY")
    os.environ["KVSEAL_MASTER_KEY"] = secret
    await vault.rotate_dek()
    done = await recode(store, plan_reencryption(vault))
    # The server is stopped, so no process seals under an older DEK any more.
    older = [dek.number for dek in vault.meta.deks if dek.state == "readable"]
    retired = [await retire(store, vault, number, grace=timedelta(0)) for number in older]
    verified = await verify(store, vault)
    await vault.close()
    return {
        "reencrypt": done.exit_code,
        "kept DEKs": sum(not one.dropped for one in retired),
        "unopened": sum(one.unopened for one in retired),
        "verify": verified.exit_code,
    }


async def opened_by_the_old_key(url: str, secret: bytes) -> int:
    """Return how many stored records the old key still opens."""
    from kvseal.errors import RecordError  # noqa: PLC0415
    from kvseal.legacy import FastMCPCodec  # noqa: PLC0415
    from kvseal.legacy.fastmcp import key_of_client_secret  # noqa: PLC0415
    from kvseal.legacy.fernet import parse_key  # noqa: PLC0415

    codec, count = FastMCPCodec([parse_key(key_of_client_secret(secret))]), 0
    for entry in await entries_of(url):
        try:
            codec.open(entry.value or {})
        except (RecordError, KeyError):
            continue
        count += 1
    return count


async def register_a_url(url: str) -> None:
    """Store what a client leaves whose identifier is the address of its metadata; nothing is fetched."""
    client = "https://app.example.com/oauth/client-metadata.json"
    await sealed(url).put(client, {"client_id": client}, collection="mcp-oauth-proxy-clients")


async def registrations(url: str) -> int:
    """Return how many clients have registered."""
    return [entry.collection for entry in await entries_of(url)].count("mcp-oauth-proxy-clients")


async def entries_of(url: str) -> list[Entry]:
    """Return what lies in the store."""
    from kvseal.drivers import driver_for  # noqa: PLC0415

    driver = driver_for(store_at(url))
    found = [entry async for page in driver.scan() for entry in page.entries]
    await driver.close()
    return found


def trial(work: Path, issuer: str) -> None:
    """Run the whole story below *work*."""
    home = work / "home"
    shutil.rmtree(home, ignore_errors=True)
    secret = secrets.token_hex(20)
    os.environ.update(
        FASTMCP_HOME=str(home), TRY_CLIENT_SECRET=secret, KVSEAL_MASTER_KEY=secrets.token_urlsafe(32)
    )
    upstream, listening = flow.Upstream(secret), socket.create_server(("127.0.0.1", 0))
    base_url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    first, second = flow.Browser(base_url), flow.Browser(base_url)

    with running(listening, upstream.url, python=issuer):
        tokens, others = first.login(), second.login()
        check("FastMCP accepts the tokens it has issued", ACCEPTED, first.status_of(tokens["access_token"]))

    url, report = asyncio.run(migrate(home, secret.encode()))
    check(f"all {report.scanned} records are migrated", (report.scanned, 0), (report.changed, report.failed))
    left = asyncio.run(opened_by_the_old_key(url, secret.encode()))
    check("the old key opens none of them any more", 0, left)

    with running(listening, upstream.url, "--store", url):
        check("the first client's token is accepted", ACCEPTED, first.status_of(tokens["access_token"]))
        check("the second client's token is accepted", ACCEPTED, second.status_of(others["access_token"]))
        check("a token that nobody issued is refused", REFUSED, first.status_of("nonsense"))
        renewed = first.refresh(tokens["refresh_token"])
        check("a refreshed token is accepted", ACCEPTED, first.status_of(renewed["access_token"]))
        check("nobody registered again", 2, asyncio.run(registrations(url)))
        third = flow.Browser(base_url).login()
        check("a new client can log in", ACCEPTED, first.status_of(third["access_token"]))
    with running(listening, upstream.url, "--store", url):
        check("after a restart, too", ACCEPTED, first.status_of(third["access_token"]))
        check("and so is the refreshed one", ACCEPTED, first.status_of(renewed["access_token"]))
    asyncio.run(register_a_url(url))
    nothing = dict.fromkeys(("reencrypt", "kept DEKs", "unopened", "verify"), 0)
    check("all is rotated, and nothing failed or stayed behind", nothing, asyncio.run(rotate_all(url)))
    with running(listening, upstream.url, "--store", url):
        check(
            "with every key replaced, the tokens are accepted",
            ACCEPTED,
            first.status_of(third["access_token"]),
        )
    check("the upstream saw three logins and one refresh", 4, upstream.asked["token"])
    left = asyncio.run(opened_by_the_old_key(url, secret.encode()))
    check("nothing was written with the old key", 0, left)
    with running(listening, upstream.url):
        check("without kvseal the same token is refused", REFUSED, second.status_of(others["access_token"]))
    upstream.close()
    print("\ndone: the server is on kvseal, and its clients have noticed nothing")


def main() -> None:
    """Build the environment and go on there; or be one of the processes of the trial."""
    parser = argparse.ArgumentParser(description="Move a real FastMCP server to kvseal.")
    parser.add_argument("directory", type=Path, nargs="?")
    parser.add_argument("--fastmcp", default="", metavar="==VERSION", help="instead of the latest release")
    parser.add_argument("--issued-by", metavar="==VERSION", help="an older release that issues the tokens")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    parser.add_argument("--fd", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--upstream", help=argparse.SUPPRESS)
    parser.add_argument("--store", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.fd is not None:
        serve(arguments)
    elif arguments.directory is None:
        parser.error("a directory is needed")
    elif arguments.inside is not None:
        trial(arguments.directory, arguments.inside)
    else:
        work = arguments.directory.resolve()
        work.mkdir(parents=True, exist_ok=True)
        python = issuer = build(work / "venv", arguments.fastmcp)
        if arguments.issued_by:
            issuer = build(work / "venv-issuer", arguments.issued_by, kvseal=False)
        again = subprocess.run([str(python), __file__, "--inside", str(issuer), str(work)], check=False)
        sys.exit(again.returncode)


if __name__ == "__main__":
    main()

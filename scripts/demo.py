"""
The whole story on a disk store: a Fernet vault is migrated, rotated and verified.

Usage: python scripts/demo.py DIRECTORY.  Writes below DIRECTORY alone.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from pathlib import Path

from cryptography.fernet import Fernet
from key_value.aio.errors import KeyValueOperationError
from key_value.aio.stores.disk import DiskStore
from key_value.aio.wrappers.encryption import FernetEncryptionWrapper

from kvseal import EnvelopeEncryptionWrapper

RECORDS = 3000
ODD_NAMES = ["with::colons", "a/path/like/name", "star*?[x]", "naïve-🔑-ключ", "spaces and\ttabs", "x" * 300]
DAMAGED = "session-13"
VAULTCTL = Path(sys.executable).with_name("vaultctl")


async def write_legacy_vault(directory: Path, key: bytes) -> None:
    """Write what an old application leaves: TTLs, odd names, large values, one damaged record."""
    store = DiskStore(directory=directory)
    old = FernetEncryptionWrapper(key_value=store, fernet=Fernet(key))
    for number in range(RECORDS):
        token = {"access_token": f"token-{number}-" + "x" * 900, "expires_in": 3600, "scope": None}
        await old.put(f"session-{number}", token, collection="sessions", ttl=86_400 if number % 2 else None)
    for name in ODD_NAMES:
        await old.put(name, {"name": name}, collection="odd")
    await old.put("large", {"blob": "y" * 300_000}, collection="odd", ttl=3600)
    damaged = await store.get(DAMAGED, collection="sessions")
    damaged = damaged or {}
    damaged["__encrypted_data__"] = damaged["__encrypted_data__"][:-12] + "AAAAAAAAAAA="
    await store.put(DAMAGED, damaged, collection="sessions")
    await store.close()


async def old_key_is_useless(directory: Path, key: bytes) -> None:
    """Show that the Fernet key opens none of the migrated records."""
    store = DiskStore(directory=directory)
    old = FernetEncryptionWrapper(key_value=store, fernet=Fernet(key))
    for number in range(RECORDS):
        name = f"session-{number}"
        if name == DAMAGED:
            continue
        try:
            await old.get(name, collection="sessions")
        except KeyValueOperationError:
            continue
        sys.exit(f"the old Fernet key still opens {name}")
    await store.close()
    print(f"the old Fernet key opens none of {RECORDS - 1} sessions")


async def application_reads(directory: Path, secret: Path) -> None:
    """Read through the wrapper, as the new application does: two lines instead of the old two."""
    store = DiskStore(directory=directory)
    kv = EnvelopeEncryptionWrapper(key_value=store, secret=f"file:{secret}", create=False)
    value, ttl = await kv.ttl("session-7", collection="sessions")
    large = await kv.get("large", collection="odd")
    if value is None or ttl is None or large is None:
        sys.exit("a record was lost")
    print(f"session-7: {value['access_token'][:9]}…, {ttl / 3600:.1f} h to live")
    print(f"large: {len(large['blob']):,} bytes")
    await kv.close()  # type: ignore[attr-defined]  # DiskStore has it, so the wrapper has it.


def vaultctl(*arguments: str, expect: int = 0) -> None:
    """Run one command, show it and what it says, and insist on its exit code."""
    print(f"\n$ vaultctl {' '.join(arguments)}", flush=True)
    code = subprocess.run([str(VAULTCTL), *arguments], check=False).returncode
    if code != expect:
        sys.exit(f"vaultctl exited with {code}, not {expect}")
    if code:
        print(f"(exit code {code}, as it should)")


def main(base: Path) -> None:
    """Run the demo below *base*."""
    work = base / "demo"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    store, first, second = work / "kv", work / "master.key", work / "new.key"
    key = Fernet.generate_key()
    os.environ.update({"OLD_FERNET_KEY": key.decode(), "VAULTCTL_STORE": f"disk:{store}"})
    for name in ("KVSEAL_MASTER_KEY", "KVSEAL_MASTER_KEY_FILE", "VAULTCTL_SECRET"):
        os.environ.pop(name, None)

    print(f"writing a legacy vault of {RECORDS + len(ODD_NAMES) + 1} records with FernetEncryptionWrapper …")
    asyncio.run(write_legacy_vault(store, key))

    vaultctl("keygen", "--out", str(first))
    migration = ("migrate-from-fernet", "--fernet-key", "env:OLD_FERNET_KEY", "--secret", f"file:{first}")
    vaultctl(*migration, "--check", expect=4)
    # Exit code 3: finished, and the damaged record is named and untouched.
    vaultctl(*migration, "--yes", expect=3)
    asyncio.run(old_key_is_useless(store, key))

    vaultctl("keygen", "--out", str(second))
    vaultctl("rotate", "--secret", f"file:{first}", "--new-secret", f"file:{second}")
    vaultctl("status", "--secret", f"file:{first}", expect=12)
    vaultctl("verify", "--secret", f"file:{second}", expect=3)
    vaultctl("inspect", "sessions", DAMAGED)
    vaultctl("inspect", "sessions", "session-7")
    asyncio.run(application_reads(store, second))
    print(
        "\ndone: the old key and the old secret are useless, and the damaged record is still there and named"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else ".demo"))

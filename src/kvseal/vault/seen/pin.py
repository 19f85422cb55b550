"""
The pin: the newest vault meta that was seen here, in a file that outlives the process.

A MAC proves that a meta is genuine, not that it is the newest: an attacker who writes to the store can put
a genuine older one back, with slots that were removed and DEKs that were replaced.  A process remembers
the highest revision that it has seen; a pin remembers it for those that come later.  It is trusted on
first use, so it shows nothing about the time before.

The file is JSON of exactly one spelling.  Processes that share it take a lock to write, so it only ever
rises, and replace it whole, so that a killed process leaves the older pin or the newer one.
"""

from __future__ import annotations

import json
import os
import stat
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from kvseal import exact_json, file_lock
from kvseal.envelope.record import VAULT_ID_SIZE
from kvseal.errors import ForkedMetaError, PinFileError, PinNotWrittenError, RolledBackMetaError
from kvseal.errors.operating_system import next_step, reason_of
from kvseal.secrets.key_file import sync_directory

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kvseal.keys.meta import VaultMeta

FORMAT: Final = 1

_FORMAT_FIELD: Final = "kvseal_pin"
_DIGEST_SIZE: Final = 32
_LONGEST: Final = 4096
# A pipe must not keep the reader waiting, and a link must not lead it elsewhere.
_FLAGS: Final = sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_CLOEXEC", "O_NONBLOCK"))


@dataclass(frozen=True, slots=True)
class Pinned:
    """One vault, its highest revision, and the SHA-256 of that meta's MAC, which no other meta has."""

    vault_id: bytes
    revision: int
    digest: bytes

    @classmethod
    def of(cls, meta: VaultMeta) -> Pinned:
        """Return what there is to remember of *meta*."""
        return cls(meta.vault_id, meta.revision, sha256(meta.mac).digest())

    @classmethod
    def from_bytes(cls, content: bytes) -> Pinned:
        """Read what `as_bytes` wrote; raises `ValueError`, `KeyError` or `TypeError` for anything else."""
        # The standard library's parser alone would end with a RecursionError for brackets that nest.
        value: dict[str, Any] = exact_json.loads(content)
        if type(value["revision"]) is not int:
            msg = "a revision is a whole number"
            raise TypeError(msg)
        pinned = cls(bytes.fromhex(value["vault_id"]), value["revision"], bytes.fromhex(value["meta"]))
        sizes = (len(pinned.vault_id), len(pinned.digest))
        if pinned.as_bytes() != content or sizes != (VAULT_ID_SIZE, _DIGEST_SIZE) or pinned.revision < 1:
            msg = "no pin of this version"
            raise ValueError(msg)
        return pinned

    def as_bytes(self) -> bytes:
        """Return the content of the file."""
        value = {
            _FORMAT_FIELD: FORMAT,
            "vault_id": self.vault_id.hex(),
            "revision": self.revision,
            "meta": self.digest.hex(),
        }
        return json.dumps(value).encode() + b"\n"


class Pin:
    """
    The pin file at *path*.

    Every method does I/O and may wait for another process: call it in a thread.
    """

    __slots__ = ("path",)

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def load(self) -> Pinned | None:
        """
        Return what is pinned, or `None` where nothing has been yet.

        Raises:
            PinFileError: the file is damaged, is not this user's alone, or cannot be read.
        """
        try:
            content = self._content()
        except FileNotFoundError:
            if self.path.parent.is_dir():
                return None
            # Perhaps a volume that is not mounted: trusting what comes first would be wrong.
            msg = f"there is no directory for the pin file {self.path}"
            raise PinFileError(msg, hint=f"mkdir -p {self.path.parent}") from None
        except OSError as exc:
            msg = f"the pin file {self.path} cannot be read: {reason_of(exc)}"
            raise PinFileError(msg, hint=next_step(exc, "it has to be a file of this user")) from None
        try:
            return Pinned.from_bytes(content)
        except (ValueError, KeyError, TypeError):
            msg = f"the pin file {self.path} is damaged, or of a later version"
            raise PinFileError(msg, hint=self._hint()) from None

    def check(self, meta: VaultMeta, pinned: Pinned) -> None:
        """
        Raise unless *meta*, read after *pinned* was, may come after it.

        Raises:
            RolledBackMetaError: it is older.
            ForkedMetaError: it is another vault's.
        """
        if meta.vault_id != pinned.vault_id:
            msg = f"this is vault {meta.vault_id.hex()}, but {self.path} pins vault {pinned.vault_id.hex()}"
            raise ForkedMetaError(msg, hint=f"check the store, and which pin file is its own; {self._hint()}")
        if meta.revision < pinned.revision:
            msg = f"the vault meta is revision {meta.revision}, but {self.path} has seen {pinned.revision}"
            raise RolledBackMetaError(msg, hint=f"find out who put an older copy back; {self._hint()}")

    def accept(self, meta: VaultMeta) -> None:
        """
        Remember *meta*, whose MAC was verified, unless a newer one has been pinned meanwhile.

        Raises:
            ForkedMetaError: another meta of this revision was pinned, or another vault.
            PinNotWrittenError: the file cannot be written; it is as it was.
            PinFileError: see `load`.
        """
        if not self._rises_to(meta):
            return
        with self._alone():
            if self._rises_to(meta):
                self._write(Pinned.of(meta).as_bytes())

    def check_writable(self) -> None:
        """Raise `PinNotWrittenError` if nothing could be pinned: a full disk still makes an empty file."""
        with self._alone(), self._writing():
            probe = self._beside("new")
            try:
                self._write_beside(probe, bytes(_LONGEST))
            finally:
                probe.unlink(missing_ok=True)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep every other writer out; a process that is killed lets them in."""
        lock = self._beside("lock")
        with self._writing():
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | _FLAGS, 0o600)
        try:
            with self._writing():
                file_lock.take(descriptor)
            yield
        finally:
            os.close(descriptor)

    def _rises_to(self, meta: VaultMeta) -> bool:
        pinned, seen = self.load(), Pinned.of(meta)
        if pinned is None:
            return True
        if pinned.vault_id != seen.vault_id:
            self.check(meta, pinned)
        if pinned.revision == seen.revision and pinned.digest != seen.digest:
            msg = f"this vault meta and the one that {self.path} pins are both revision {seen.revision}"
            raise ForkedMetaError(msg, hint=f"find out who changed a copy of the vault; {self._hint()}")
        return pinned.revision < seen.revision

    def _content(self) -> bytes:
        with os.fdopen(os.open(self.path, os.O_RDONLY | _FLAGS), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                msg = f"the pin file {self.path} is no file"
                raise PinFileError(msg)
            if os.name == "posix" and (status.st_uid not in {os.geteuid(), 0} or status.st_mode & 0o022):
                msg = f"the pin file {self.path} can be changed by others, so it pins nothing"
                raise PinFileError(msg, hint=f"chown it to this user, and chmod 600 {self.path}")
            return file.read(_LONGEST)

    def _write(self, content: bytes) -> None:
        # One name for all writers, who have locked each other out: what a killed one left is used up.
        beside = self._beside("new")
        with self._writing():
            self._write_beside(beside, content)
            beside.replace(self.path)
            sync_directory(self.path.parent)

    @staticmethod
    def _write_beside(beside: Path, content: bytes) -> None:
        beside.unlink(missing_ok=True)
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FLAGS, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as exc:
            msg = f"the pin file {self.path} cannot be written: {reason_of(exc)}"
            hint = next_step(exc, "this user has to be able to write to its directory")
            raise PinNotWrittenError(msg, hint=hint) from None

    def _beside(self, suffix: str) -> Path:
        return self.path.with_name(f".{self.path.name}.{suffix}")

    def _hint(self) -> str:
        return (
            f"if it was you who restored or replaced the vault, delete {self.path} to pin what is there now"
        )

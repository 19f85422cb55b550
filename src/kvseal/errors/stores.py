"""Errors of a backend, and of what stands between kvseal and it."""

from __future__ import annotations

from key_value.aio.errors import StoreConnectionError

from kvseal.errors.base import KvsealError
from kvseal.errors.exit_codes import ExitCode


class StoreError(KvsealError, StoreConnectionError):
    """The backend cannot do what is needed."""


class StoreNotFoundError(StoreError):
    """There is no store at this place."""

    exit_code = ExitCode.UNREACHABLE


class StoreUnreachableError(StoreError):
    """The store does not answer, or answers with an error."""

    exit_code = ExitCode.UNREACHABLE


class StaleKeyringError(StoreUnreachableError):
    """The vault meta was out of reach for so long that nothing is sealed with what it said then."""


class ManifestError(StoreError):
    """A manifest of names cannot be read."""

    exit_code = ExitCode.USAGE


class UnsupportedStoreError(StoreError):
    """kvseal has no driver for this store."""

    exit_code = ExitCode.USAGE


class UnsupportedStackError(UnsupportedStoreError):
    """A wrapper of this stack hides stored records from a driver, or forbids writing them."""


class Conflict(StoreError):  # noqa: N818 - the field's own word for a lost compare-and-swap
    """Another writer changed the entry first; read it again and decide again."""

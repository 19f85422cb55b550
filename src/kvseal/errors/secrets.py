"""Errors about master secrets, wrap keys and Argon2id parameters."""

from __future__ import annotations

from kvseal.errors.base import KvsealError
from kvseal.errors.exit_codes import ExitCode


class SecretError(KvsealError):
    """The master secret cannot be used."""

    exit_code = ExitCode.USAGE


class WrongSecretError(SecretError):
    """No keyslot opens with this secret."""

    exit_code = ExitCode.NO_KEYSLOT_OPENS


class EmptySecretError(SecretError):
    """The secret is empty."""


class MistypedSecretError(SecretError):
    """The secret has the form of a generated one but its checksum does not match."""


class SecretReferenceError(SecretError, ValueError):
    """The text is not a reference of the form `scheme:rest`."""


class SecretNotFoundError(SecretError):
    """The reference points at nothing, or no reference was given and none of the defaults exists."""


class ExposedSecretFileError(SecretError):
    """Others than its owner can read the key file."""


class WrapKeyError(SecretError):
    """The service that holds a wrap key answers with what cannot be used."""

    exit_code = ExitCode.FAILED


class WrapKeyRefusedError(WrapKeyError):
    """The service does not let this process use the wrap key, has disabled it, or has none of that name."""

    exit_code = ExitCode.NO_KEYSLOT_OPENS


class WrapKeyUnreachableError(WrapKeyError):
    """The service that holds a wrap key does not answer, or answers that it cannot now."""

    exit_code = ExitCode.UNREACHABLE


class KDFParametersError(KvsealError, ValueError):
    """Argon2id parameters are outside the bounds that this process accepts."""

"""The secrets of the old application, byte for byte: a line break at the end may have been a part of one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvseal.cli import connect
from kvseal.concurrency import in_thread
from kvseal.errors import EmptySecretError, SecretReferenceError
from kvseal.secrets.mistakes import refuse_placeholder
from kvseal.secrets.secret import Secret
from kvseal.secrets.sources import SOURCES
from kvseal.wrapkeys import SCHEMES

if TYPE_CHECKING:
    from kvseal.cli.settings import Settings


async def old_secret(reference: str, settings: Settings) -> bytes:
    """
    Return the bytes that *reference* points at, with the line break that they may end with.

    Raises:
        SecretReferenceError: it is no reference to a secret.
        SecretNotFoundError, ExposedSecretFileError, EmptySecretError: see `resolve`.
    """
    scheme, _, rest = reference.partition(":")
    if scheme not in SOURCES or not rest:
        # A person types no line break that is meant; anything else is refused here.
        secret = await connect.given_secret(reference, settings)
        if not isinstance(secret, Secret):
            msg = "old records are opened with a secret, and a key service does not give one"
            raise SecretReferenceError(msg, hint="give a reference such as env:NAME or file:PATH")
        return secret.reveal()
    return await in_thread(_content, scheme, rest)


def _content(scheme: str, rest: str) -> bytes:
    content = SOURCES[scheme](rest)
    refuse_placeholder(content, (*SOURCES, "prompt", *SCHEMES))
    if not content.strip():
        msg = "the secret is empty"
        raise EmptySecretError(msg, hint="an unset variable or an empty file is not a secret")
    return content

"""
The wrap key: a key that a service holds and never gives away.

Only the service unwraps what it has wrapped, and only for authorised callers.  kvseal gives it
the root key and a context, which the service binds together: a slot that was copied from another
vault, or from another slot, does not unwrap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Mapping


@runtime_checkable
class WrapKey(Protocol):
    """
    One key of a key management service.

    Both methods block, for seconds at most; kvseal calls them in a thread, when a slot is made and
    once per process when a vault is opened.  They raise

    * `WrapKeyUnreachableError` where the service does not answer,
    * `WrapKeyRefusedError` where it answers that this caller, or this key, may not,
    * `SecretNotFoundError` where this process has no address or credentials for it,

    and what they raise has nothing in it that the service has answered.
    """

    @property
    def kind(self) -> str:
        """What service it is: up to 32 of `a-z`, `0-9` and `-`.  Stored in the slot."""
        ...

    @property
    def name(self) -> str:
        """The key's name there, 1 to 2048 printable characters.  Stored in the slot, and shown."""
        ...

    @property
    def address(self) -> str:
        """Where the service is, for messages, without credentials.  Never stored."""
        ...

    def wrap(self, key: bytes, context: Mapping[str, str]) -> bytes:
        """Return *key* wrapped, at most 8 KiB, so that only `unwrap` with the same *context* returns it."""
        ...

    def unwrap(self, wrapped: bytes, context: Mapping[str, str]) -> bytes:
        """
        Return the key that `wrap` was given.

        Raises:
            kvseal.envelope.wrapping.DamagedWrapError: *wrapped* was changed, or belongs to another
                context or key.
        """
        ...

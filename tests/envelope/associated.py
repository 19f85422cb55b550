"""The data that a record authenticates, put together from its parts as docs/format.md lists them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvseal.envelope.record import AAD_LABEL, bound_names, context_field, encode_expiry, name_field

if TYPE_CHECKING:
    from kvseal.envelope.record import Header


def associated_data(
    vault_id: bytes, header: Header, collection: str, key: str, *, context: str = ""
) -> bytes:
    r"""
    Return the data that is authenticated with the ciphertext of a record.

    "kvseal/record/v1\\0" ‖ vault id (16) ‖ header bytes 0-7 ‖ expiry if present
    ‖ u32 length of collection ‖ collection ‖ u32 length of key ‖ key
    ‖ (with a context only) u32 length of context ‖ context
    """
    bound_collection, bound_key = bound_names(header.binding, collection, key)
    return b"".join(
        (
            AAD_LABEL,
            vault_id,
            header.start(),
            encode_expiry(header.expires_at),
            name_field(bound_collection),
            name_field(bound_key),
            context_field(context),
        )
    )

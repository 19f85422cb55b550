"""
Wrap keys by scheme: a secret reference such as `transit:MOUNT/KEY` names a key that a service holds.

Everything that takes a secret takes a wrap key as well, by reference or as an object:

>>> from kvseal.wrapkeys import TransitKey
>>> vault = await Vault.open(store, secret=TransitKey("kvseal", address="https://bao.example:8200"))

A class with the two methods of `WrapKey` is all that another service needs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kvseal.wrapkeys.aws_kms import AwsKmsKey
from kvseal.wrapkeys.base import WrapKey
from kvseal.wrapkeys.transit import TransitKey

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["SCHEMES", "AwsKmsKey", "TransitKey", "WrapKey"]

SCHEMES: Final[dict[str, Callable[[str], WrapKey]]] = {
    "aws-kms": AwsKmsKey.from_reference,
    "transit": TransitKey.from_reference,
}

"""What a vault reads and how its records are bound: authenticated with the vault meta."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from kvseal.envelope.record import Binding

_BINDINGS: Final = {
    "collection+key": Binding.COLLECTION_AND_KEY,
    "collection": Binding.COLLECTION,
    "none": Binding.NONE,
}
_BINDING_NAMES: Final = {binding: name for name, binding in _BINDINGS.items()}


@dataclass(frozen=True, slots=True)
class Policy:
    """
    The default is strict: only records sealed for their very name are read.

    `read_legacy` and `read_plaintext` open a migration's time window; `binding` is
    what new records are bound to and the weakest that is accepted.
    """

    read_legacy: bool = False
    read_plaintext: bool = False
    binding: Binding = Binding.COLLECTION_AND_KEY

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Policy:
        """Read what `as_json` wrote; raises `KeyError` or `TypeError` where it is something else."""
        read_legacy, read_plaintext = value["read_legacy"], value["read_plaintext"]
        if type(read_legacy) is not bool or type(read_plaintext) is not bool:
            msg = "policy switches are true or false"
            raise TypeError(msg)
        return cls(read_legacy, read_plaintext, _BINDINGS[value["binding"]])

    def as_json(self) -> dict[str, Any]:
        """Return the policy as it stands in the vault meta."""
        return {
            "read_legacy": self.read_legacy,
            "read_plaintext": self.read_plaintext,
            "binding": _BINDING_NAMES[self.binding],
        }

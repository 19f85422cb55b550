"""
Key derivation: Argon2id (RFC 9106) from secrets, HKDF-SHA256 (RFC 5869) from keys.

Argon2id parameters come from a store to which an attacker may write, so
`Argon2idParams` cannot be built outside bounds, and `argon2id` checks the memory
ceiling before it allocates anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

from argon2.exceptions import HashingError
from argon2.low_level import ARGON2_VERSION, Type, hash_secret_raw
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from kvseal.errors import KDFParametersError

SALT_SIZE: Final = 16
OUTPUT_SIZE: Final = 32
MAX_TIME_COST: Final = 64
MAX_PARALLELISM: Final = 64
DEFAULT_MEMORY_CEILING: Final = 4 * 1024 * 1024
"""KiB: 4 GiB."""

_MEMORY_PER_LANE: Final = 8
_MAX_MEMORY_COST: Final = 2**32 - 1


@dataclass(frozen=True, slots=True)
class Argon2idParams:
    """
    The cost of one derivation, in RFC 9106's terms: t passes over m KiB in p lanes.

    Raises:
        KDFParametersError: t or p is outside 1..64, or m is less than 8 KiB for each lane.
    """

    RFC_9106_HIGH_MEMORY: ClassVar[Argon2idParams]
    RFC_9106_LOW_MEMORY: ClassVar[Argon2idParams]
    OWASP_MINIMUM: ClassVar[Argon2idParams]

    time_cost: int
    memory_cost: int
    parallelism: int

    def __post_init__(self) -> None:
        _check_bound("time cost", self.time_cost, 1, MAX_TIME_COST)
        _check_bound("parallelism", self.parallelism, 1, MAX_PARALLELISM)
        _check_bound(
            "memory cost in KiB", self.memory_cost, _MEMORY_PER_LANE * self.parallelism, _MAX_MEMORY_COST
        )

    def __str__(self) -> str:
        return f"t={self.time_cost}, m={self.memory_cost} KiB, p={self.parallelism}"

    def encode(self) -> bytes:
        """Return t ‖ m ‖ p, each as 4 bytes big-endian: what a keyslot authenticates."""
        fields = (self.time_cost, self.memory_cost, self.parallelism)
        return b"".join(field.to_bytes(4, "big") for field in fields)


def argon2id(
    secret: bytes, salt: bytes, params: Argon2idParams, *, memory_ceiling: int = DEFAULT_MEMORY_CEILING
) -> bytes:
    """
    Return 32 bytes.  Blocks for the time that *params* cost, and releases the GIL meanwhile.

    Raises:
        KDFParametersError: *salt* is not 16 bytes, *params* need more than *memory_ceiling* KiB,
            or the memory cannot be allocated.
    """
    if len(salt) != SALT_SIZE:
        msg = f"an Argon2id salt has {SALT_SIZE} bytes, not {len(salt)}"
        raise KDFParametersError(msg)
    check_memory(params, memory_ceiling)
    try:
        return hash_secret_raw(
            secret,
            salt,
            time_cost=params.time_cost,
            memory_cost=params.memory_cost,
            parallelism=params.parallelism,
            hash_len=OUTPUT_SIZE,
            type=Type.ID,
            version=ARGON2_VERSION,
        )
    except HashingError as exc:
        msg = f"Argon2id with {params} failed: {exc}"
        raise KDFParametersError(msg, hint="give this process more memory, or lower the cost") from exc


def check_memory(params: Argon2idParams, memory_ceiling: int) -> None:
    """Raise `KDFParametersError` if *params* need more than *memory_ceiling* KiB."""
    if params.memory_cost > memory_ceiling:
        msg = f"Argon2id wants {params.memory_cost} KiB of memory, above the ceiling of {memory_ceiling} KiB"
        raise KDFParametersError(msg, hint="raise the memory ceiling only if you set this cost yourself")


def hkdf(key: bytes, info: bytes, length: int = OUTPUT_SIZE) -> bytes:
    """
    Return *length* bytes for the purpose that *info* names.

    This is only HKDF's expand step.  *key* is always 32 uniformly random bytes, an Argon2id
    output or a random key, and for those RFC 5869, section 3.3, allows skipping the extract step.
    """
    return HKDFExpand(SHA256(), length, info).derive(key)


def _check_bound(name: str, value: int, low: int, high: int) -> None:
    if type(value) is not int or not low <= value <= high:
        msg = f"Argon2id {name} must be between {low} and {high}, not {value!r}"
        raise KDFParametersError(msg)


# First and second recommended options of RFC 9106, section 4.
Argon2idParams.RFC_9106_HIGH_MEMORY = Argon2idParams(time_cost=1, memory_cost=2 * 1024 * 1024, parallelism=4)
Argon2idParams.RFC_9106_LOW_MEMORY = Argon2idParams(time_cost=3, memory_cost=64 * 1024, parallelism=4)
# The lowest cost that OWASP's password storage cheat sheet recommends for Argon2id.  kvseal uses it for
# secrets of 256 random bits, which cannot be guessed at any cost: they open quickly, with little memory.
Argon2idParams.OWASP_MINIMUM = Argon2idParams(time_cost=2, memory_cost=19 * 1024, parallelism=1)

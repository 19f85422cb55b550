"""Errors about the vault as a whole: its meta, its keyslots, its keys."""

from __future__ import annotations

from key_value.aio.errors import StoreSetupError

from kvseal.errors.base import KvsealError
from kvseal.errors.exit_codes import ExitCode


class VaultError(KvsealError, StoreSetupError):
    """The vault as a whole cannot be used."""


class VaultNotFoundError(VaultError):
    """The store holds no vault, and none was to be created."""

    exit_code = ExitCode.UNREACHABLE


class VaultExistsError(VaultError):
    """The store already holds a vault; a second one over it would orphan its records."""


class VaultMetaLostError(VaultError):
    """Sealed records exist but the vault meta that opens them is missing."""


class VaultMetaError(VaultError):
    """The vault meta is malformed."""


class UnknownMetaVersionError(VaultMetaError):
    """The vault meta is of a version that this kvseal does not read."""


class UnknownSlotKindError(VaultMetaError):
    """A keyslot is of a kind whose fields this kvseal does not know."""


class UnknownExtensionError(VaultError):
    """The vault meta has a critical part of a later kvseal: this one reads, and seals and changes nothing."""


class TamperedMetaError(VaultMetaError):
    """The vault meta was changed by something that does not hold the root key."""


class RolledBackMetaError(VaultMetaError):
    """The vault meta is older than one that this process, or its pin file, has already seen."""


class ForkedMetaError(VaultMetaError):
    """The vault meta cannot come after the pinned one: another of the same revision, or another vault's."""


class RefutedKeyringError(VaultError):
    """The store has no vault meta, an older or another one, so nothing is sealed with the keys in memory."""


class DamagedSlotError(VaultError):
    """The secret is right, but the keyslot's wrapped root key is damaged."""


class LastSlotError(VaultError):
    """The change would leave no usable keyslot that lasts."""


class SlotsLeftOutError(VaultError):
    """A rotation of the root key would drop keyslots whose secret was not given; each is named."""

    exit_code = ExitCode.USAGE


class RootRotatedError(VaultError):
    """The root key was rotated, and the secret that this process holds does not lead to the new one."""


class SlotExistsError(VaultError):
    """There already is a keyslot with this label."""

    exit_code = ExitCode.USAGE


class SlotNotFoundError(VaultError):
    """No keyslot, or more than one, has this id or label."""

    exit_code = ExitCode.USAGE


class EvictingStoreError(VaultError):
    """The store drops entries when it is full, and would drop the vault meta first."""


class ForeignVaultError(VaultError):
    """Another program keeps its own key record where the vault meta would be."""


class VaultLockedError(VaultError):
    """The keys of this vault are forgotten: by `lock()`, or because no caller used them for so long."""


class PinFileError(VaultError):
    """The pin file is damaged, not this user's alone, or out of reach; nothing is believed without it."""

    exit_code = ExitCode.USAGE


class PinNotWrittenError(PinFileError):
    """The pin file cannot be written; it still says what it said before."""


class ClocksApartError(VaultError):
    """This host's clock and the store's are too far apart for what depends on the time."""


class VaultHeldError(VaultError):
    """The vault's policy holds new values in an old format, and this asks for the opposite."""


class HoldNotPermittedError(VaultHeldError):
    """The vault's policy holds an old format, and this process was not configured to write it."""


class DEKNeededError(VaultError):
    """A DEK cannot be retired: a record, a process or a recode may still need it."""

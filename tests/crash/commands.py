"""
The crash table's commands: what each begins with, does and leaves, through the library and through vaultctl.

`steps` are the store operations of a run through the library on a store in memory with two
entries to a page: every one of them is a moment at which a process can die.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.crash.beginnings import (
    AUTHSOME_RECORDS,
    DAY,
    LEGACY,
    RECORDS,
    Names,
    a_retired_dek,
    authsome,
    damaged_records,
    fernet_records,
    half_a_rotation,
    imported,
    legacy_reads,
    nothing,
    one_dek_too_many,
    two_deks,
    with_a_slot,
)
from tests.crash.ends import (
    World,
    costs_more,
    has_adopted,
    has_another_dek,
    has_another_root,
    has_one_dek,
    has_retired,
    has_the_printed_key,
    is_migrated,
    is_migrated_after_a_backup,
    is_migrated_from_authsome,
    keeps_the_dek,
    no_more,
    reads_legacy,
    reads_sealed_alone,
)
from tests.crash.outcome import by_authsome, by_fernet
from tests.crash.runs import (
    adopted,
    created,
    created_with_a_new_secret,
    finalized,
    kept,
    keys_imported,
    migrated,
    migrated_after_a_backup,
    migrated_from_authsome,
    opened_and,
    opened_or_created,
    recovery_key_added,
    reencrypted,
    reencrypted_with_renewals,
    retired,
    rotated,
)
from tests.processes import CHEAP, COSTLIER, NEW, OLD, SPARE

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from pathlib import Path

    from kvseal import Secret, Vault
    from kvseal.drivers.base import Driver


@dataclass(frozen=True)
class Command:
    """
    One row: `begin`, then `run` or `vaultctl`, then `check` and the slots.

    `slots` are the labels that are there in the end, with a `…` behind each that expires; `opens` are the
    secrets that open the vault then, of those that occur here, `None` for the default order.
    """

    steps: str
    begin: Callable[[Any], Awaitable[None]]
    run: Callable[[Driver, Path], Awaitable[Any]]
    vaultctl: str = ""
    check: Callable[[Vault, World], Awaitable[None]] = no_more
    slots: tuple[str, ...] = ("primary",)
    opens: tuple[Secret | None, ...] = (OLD,)
    records: Mapping[Names, dict[str, Any]] = field(default_factory=lambda: RECORDS)
    by_the_old: Callable[[Any, Names], Awaitable[Any]] | None = None
    """How records are read that are not sealed yet."""
    exits: tuple[int, ...] = (0,)
    """What vaultctl may exit with where nothing dies."""
    varies: bool = False
    """Whether some of its operations depend on the order in which pages are done."""


MIGRATE = "migrate-from-fernet --fernet-key env:FERNET --argon2 1,8,1 --yes --secret env:OLD"

_OPEN = "get "

_CHANGE = "get replace_many get "

_ROTATION = "get " + 2 * "replace_many get "
"""What is read back after the first write is what the second one replaces."""

_PAGES = 4 * "page "
"""A scan of six entries or five, two to a page; the last one finds the end."""

_LEASE = 2 * "get put_if_absent " + "get "
"""The head and the part are put, and the head is read once more."""

_MARK = 2 * "get " + "replace_many "
"""Before the first record is written, the part says what its sealer leaves in each."""

_END = 3 * "get " + "replace_many get replace_many " + 2 * "get delete "
"""The vault meta has to hold the DEK that sealed; the part is done, the run is over, and both entries go."""


def _recode(*, pages: int = 5, swaps: int) -> str:
    """Return a scan and a verify pass, each over the vault meta, head and part too, and what is swapped."""
    return _LEASE + 2 * pages * "page " + _MARK + swaps * "replace_many " + _END


COMMANDS = {
    "create": Command(
        steps="get page put_if_absent get",
        begin=nothing,
        run=created,
        vaultctl="init --argon2 1,8,1 --secret env:OLD",
        records={},
        exits=(0, 1),
    ),
    "create, and generate the secret": Command(
        steps="get page put_if_absent get",
        begin=nothing,
        run=created_with_a_new_secret,
        vaultctl="init --argon2 1,8,1",
        records={},
        opens=(None,),
        exits=(0, 1),
    ),
    "open or create": Command(
        steps="get page put_if_absent get", begin=nothing, run=opened_or_created, records={}
    ),
    "create, and adopt authsome's keys": Command(
        steps="get page page page replace_many get",
        begin=authsome,
        run=adopted,
        check=has_adopted,
        records=AUTHSOME_RECORDS,
        by_the_old=by_authsome,
    ),
    "rotate the secret": Command(
        steps=_OPEN + _ROTATION,
        begin=two_deks,
        run=rotated,
        vaultctl="rotate --new-secret env:NEW --secret env:OLD",
        opens=(NEW,),
        exits=(0, 12),
    ),
    "rotate the cost": Command(
        steps=_OPEN + _ROTATION,
        begin=two_deks,
        run=opened_and(lambda vault: vault.rotate(kdf=COSTLIER)),
        vaultctl="rotate --argon2 2,16,1 --secret env:OLD",
        check=costs_more,
    ),
    "rotate both": Command(
        steps=_OPEN + _ROTATION,
        begin=two_deks,
        run=opened_and(lambda vault: vault.rotate(new_secret=NEW, kdf=COSTLIER)),
        vaultctl="rotate --new-secret env:NEW --argon2 2,16,1 --secret env:OLD",
        check=costs_more,
        opens=(NEW,),
        exits=(0, 12),
    ),
    "rotate, and keep the old secret": Command(
        steps=_OPEN + _ROTATION,
        begin=two_deks,
        run=opened_and(lambda vault: vault.rotate(new_secret=NEW, keep_old_for=DAY)),
        vaultctl="rotate --new-secret env:NEW --keep-old-for 24h --secret env:OLD",
        slots=("primary", "primary…"),
        opens=(OLD, NEW),
    ),
    "finish a rotation": Command(
        steps=_OPEN + _CHANGE,
        begin=half_a_rotation,
        run=rotated,
        vaultctl="rotate --new-secret env:NEW --secret env:OLD",
        opens=(NEW,),
        exits=(0, 12),
    ),
    "rotate the root key": Command(
        steps=_OPEN + _CHANGE,
        begin=with_a_slot(),
        run=opened_and(lambda vault: vault.rotate_root([SPARE])),
        vaultctl="rotate --root --slot-secret env:SPARE --secret env:OLD",
        slots=("primary", "spare"),
        opens=(OLD, SPARE),
        check=has_another_root,
    ),
    "rotate the root key, and drop a slot": Command(
        steps=_OPEN + _CHANGE,
        begin=with_a_slot(),
        run=opened_and(lambda vault: vault.rotate_root(drop_slots=["spare"])),
        vaultctl="rotate --root --drop-slots --yes --secret env:OLD",
        check=has_another_root,
    ),
    "rotate the DEK": Command(
        steps=_OPEN + _CHANGE,
        begin=two_deks,
        run=opened_and(lambda vault: vault.rotate_dek()),
        vaultctl="rotate --dek --secret env:OLD",
        check=has_another_dek,
    ),
    "add a slot": Command(
        steps=_OPEN + _CHANGE,
        begin=two_deks,
        run=opened_and(lambda vault: vault.slots.add(SPARE, label="added", kdf=CHEAP)),
        vaultctl="slot add --label added --new-secret env:SPARE --argon2 1,8,1 --secret env:OLD",
        slots=("added", "primary"),
        opens=(OLD, SPARE),
        exits=(0, 2),
    ),
    "add a slot that expires": Command(
        steps=_OPEN + _CHANGE,
        begin=two_deks,
        run=opened_and(lambda vault: vault.slots.add(SPARE, label="added", kdf=CHEAP, expires_in=DAY)),
        vaultctl="slot add --label added --new-secret env:SPARE --expires-in 24h --argon2 1,8,1 --secret env:OLD",
        slots=("added…", "primary"),
        opens=(OLD, SPARE),
        exits=(0, 2),
    ),
    "add a recovery key": Command(
        steps=_OPEN + 2 * _CHANGE,
        begin=two_deks,
        run=recovery_key_added,
        vaultctl="slot add --recovery --argon2 1,8,1 --secret env:OLD",
        check=has_the_printed_key,
        slots=("primary", "recovery"),
        exits=(0, 2),
    ),
    "let a slot last": Command(
        steps=_OPEN + _CHANGE,
        begin=with_a_slot(expires_in=DAY),
        run=opened_and(lambda vault: vault.slots.keep("spare")),
        slots=("primary", "spare"),
        opens=(OLD, SPARE),
    ),
    "remove a slot": Command(
        steps=_OPEN + _CHANGE,
        begin=with_a_slot(),
        run=opened_and(lambda vault: vault.slots.remove("spare")),
        vaultctl="slot remove spare --yes --secret env:OLD",
        exits=(0, 2),
    ),
    "read legacy": Command(
        steps=_OPEN + _CHANGE,
        begin=two_deks,
        run=opened_and(lambda vault: vault.read_legacy_with([LEGACY], plaintext=True)),
        check=reads_legacy,
    ),
    "end legacy reads": Command(
        steps=_OPEN + _CHANGE,
        begin=legacy_reads,
        run=opened_and(lambda vault: vault.end_legacy_reads()),
        check=reads_sealed_alone,
    ),
    "re-encrypt": Command(
        steps=_OPEN + _recode(swaps=2),
        begin=two_deks,
        run=reencrypted,
        vaultctl="reencrypt --no-backup --yes --secret env:OLD",
        check=has_one_dek,
    ),
    "re-encrypt, and tell how far it is": Command(
        steps="",
        begin=two_deks,
        run=reencrypted_with_renewals,
        check=has_one_dek,
        varies=True,
    ),
    "retire the DEK": Command(
        steps=_OPEN + "get get " + _PAGES + _CHANGE,
        begin=one_dek_too_many,
        run=retired,
        vaultctl="dek retire 1 --grace 0 --yes --secret env:OLD",
        check=has_retired,
    ),
    "retire the DEK, and keep it": Command(
        steps=_OPEN + _CHANGE,
        begin=one_dek_too_many,
        run=kept,
        check=keeps_the_dek,
    ),
    "drop the retired DEK": Command(
        steps=_OPEN + "get get " + _PAGES + _CHANGE,
        begin=a_retired_dek,
        run=retired,
        vaultctl="dek retire 1 --grace 0 --yes --secret env:OLD",
        check=has_retired,
    ),
    "import keys": Command(
        steps=_OPEN + _PAGES + "get " + _PAGES + "put_if_absent get " + _CHANGE,
        begin=fernet_records,
        run=keys_imported,
        vaultctl=f"{MIGRATE} --import-keys",
        check=reads_legacy,
        by_the_old=by_fernet,
    ),
    "finalize": Command(
        steps=_OPEN + _PAGES + _recode(swaps=2) + _CHANGE,
        begin=imported,
        run=finalized,
        vaultctl="migrate-from-fernet --finalize --no-backup --yes --secret env:OLD",
        check=reads_sealed_alone,
    ),
    "migrate": Command(
        steps=_OPEN + _PAGES + "get " + _PAGES + "put_if_absent get " + _recode(pages=6, swaps=3),
        begin=damaged_records,
        run=migrated,
        vaultctl=f"{MIGRATE} --no-backup",
        check=is_migrated,
        by_the_old=by_fernet,
        exits=(3,),
    ),
    "migrate after a backup": Command(
        steps=_OPEN
        + _PAGES
        + "get "
        + _PAGES
        + 2 * "get "
        + _PAGES
        + "put_if_absent get "
        + _recode(swaps=3),
        begin=fernet_records,
        run=migrated_after_a_backup,
        vaultctl=MIGRATE,
        check=is_migrated_after_a_backup,
        by_the_old=by_fernet,
    ),
    "migrate from authsome": Command(
        steps=9 * "page " + 3 * "get " + "replace_many get " + _recode(pages=4, swaps=1),
        begin=authsome,
        run=migrated_from_authsome,
        check=is_migrated_from_authsome,
        records=AUTHSOME_RECORDS,
        by_the_old=by_authsome,
    ),
}

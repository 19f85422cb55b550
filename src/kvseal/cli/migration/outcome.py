"""How a migration ended, in words: what was done, what is left, and the next command."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvseal.cli.migration.recoding import LEFT_OVER, exit_code
from kvseal.errors import ExitCode
from kvseal.keys.policy import SEALED
from kvseal.keys.stamps import time_of, time_text
from kvseal.keys.wrapped_keys import SECOND_DEK
from kvseal.recoding.engine import WHOLE
from kvseal.recoding.formats import KVSEAL

if TYPE_CHECKING:
    from kvseal.cli.migration.recoding import Recoding
    from kvseal.cli.output import Output
    from kvseal.recoding import Migration, Report


def tell_imported(output: Output, done: Migration) -> None:
    """Say what an import of keys did, and what comes next."""
    held = _old_keys(done)
    if done.vault is None or not done.vault.policy["read_legacy"]:
        output.note("nothing was written; the keys fit")
        return
    output.note(f"the vault holds {held} old key{'s'[: held != 1]}, and its wrappers read old records")
    write = done.vault.policy.get("write", {"as": SEALED})
    if write["as"] == SEALED:
        output.note("next: deploy EnvelopeEncryptionWrapper everywhere, then run this with --finalize")
    else:
        output.note("new values are written in the old format, by processes that were given hold=")
        output.note("next: deploy EnvelopeEncryptionWrapper(hold=…) everywhere, then vaultctl policy seal")


def _old_keys(done: Migration) -> int:
    """Return how many keys open old records: no DEK that lost its number, and none that has ended."""
    keys = () if done.vault is None else done.vault.legacy
    return sum(key.kind != SECOND_DEK and key.ended_at is None for key in keys)


def tell_migrated(output: Output, done: Migration, options: Recoding) -> int:
    """Say what a migration did and what comes next, and return the exit code."""
    report = done.report
    if report is None:
        raise AssertionError
    output.summary(report)
    code = exit_code(report, options)
    if report.dry_run:
        todo = (
            "next: the same command without --dry-run or --check"
            if report.changed
            else "nothing is left to do"
        )
        output.note(f"nothing was written; {todo}")
        return code
    if done.vault is not None:
        output.note(f"DEK {done.vault.active_dek} is active in vault {done.vault.vault_id}")
    _tell_next(output, done, report, options)
    return ExitCode.WORK_PENDING if options.finalize and not (done.finalized or report.failed) else code


def _tell_next(output: Output, done: Migration, report: Report, options: Recoding) -> None:
    if report.failed:
        output.note("records that failed are untouched and may need the old key: keep it until nothing fails")
        output.note("next: run again with the key that opens them, or delete records that no key opens")
    elif report.pending and not options.finalize:
        output.note(LEFT_OVER)
    elif options.part != WHOLE:
        index, count = options.part
        output.note(
            f"part {index + 1} of {count} is done; next: the other parts, then this without --partition"
        )
    elif options.finalize and not done.finalized:
        output.note(_not_finalized(report))
    elif done.finalized:
        _tell_finalized(output, done, options)
    elif _old_keys(done):
        output.note("next: run this with --finalize to end old reads and drop the old keys")
    else:
        output.note("next: vaultctl verify, then deploy EnvelopeEncryptionWrapper and retire the old key")


def _tell_finalized(output: Output, done: Migration, options: Recoding) -> None:
    ended = [] if done.vault is None else [key.ended_at for key in done.vault.legacy if key.ended_at]
    if not ended:
        output.note("finalized: nothing old is left, old reads have ended and the old keys are dropped")
        return
    until = time_text(time_of(max(ended)) + options.settles_in)
    output.note(
        "finalized: nothing old is left, and old reads have ended; the vault still keeps the old keys"
    )
    output.note(f"next: this again after {until}, to count once more and drop them, or now with --grace 0")


def _not_finalized(report: Report) -> str:
    """Name what still needs the old keys."""
    old = sum(count for name, count in (report.expired or {}).items() if name != KVSEAL)
    if old and set(report.formats or {}) <= {KVSEAL}:
        return (
            f"not finalized: the store still has {old:,} old records that have expired by this host's clock;"
            " check the clock, remove them with the store's own cull(), and run this again"
        )
    return "not finalized: another process wrote old records meanwhile; stop it, and run this again"

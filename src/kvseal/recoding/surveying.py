"""
The survey: classify every entry before the first write, and check that the keys open records.

It finds a wrong legacy key, or plaintext that must not be there, before the migration starts.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from kvseal import clock
from kvseal.drivers.base import PAGE_SIZE
from kvseal.envelope.stored import is_sealed
from kvseal.errors import PlaintextFoundError, RecodeError, RecordError, WrongLegacyKeyError
from kvseal.keys.meta import META_COLLECTION
from kvseal.legacy import PlaintextCodec
from kvseal.legacy.likeness import Likeness
from kvseal.observe.events import Progress, ignore
from kvseal.recoding.decision import classify, format_of
from kvseal.recoding.formats import KVSEAL, UNDECODABLE, LegacySource
from kvseal.recoding.pace import LoopShare, Pace
from kvseal.recoding.plan import PlaintextRule

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kvseal.drivers.base import Driver, Entry
    from kvseal.legacy import LegacyCodec
    from kvseal.observe.events import Listener
    from kvseal.recoding.formats import Source

SAMPLE: Final = 64
"""The number of legacy records to open as a check of the keys; more, until one of them opens."""

_NAMES_SHOWN: Final = 3
_UNWRITTEN: Final = "nothing was written"


@dataclass(frozen=True, slots=True)
class Survey:
    """Counts of entries by format, without the vault meta."""

    formats: dict[str, int]

    @property
    def total(self) -> int:
        """The number of entries."""
        return sum(self.formats.values())


async def survey(
    driver: Driver,
    legacy: Sequence[LegacyCodec],
    *,
    plaintext: PlaintextRule = PlaintextRule.REFUSE,
    leaves: Sequence[LegacyCodec] = (),
    partition: tuple[int, int] = (0, 1),
    rate: float | None = None,
    listener: Listener = ignore,
) -> Survey:
    """
    Classify every entry of *driver*'s store, and open a sample with the *legacy* codecs.

    Entries that *leaves* recognise are counted and not opened.  *rate* limits the entries per second.

    Raises:
        WrongLegacyKeyError: there are legacy records, and none of them opens.
        PlaintextFoundError: there is plaintext, and *plaintext* refuses it.
    """
    left = [LegacySource(codec) for codec in leaves]
    look = _Look([LegacySource(codec) for codec in (*legacy, PlaintextCodec())], left)
    started, pace, share = clock.monotonic(), Pace(rate), LoopShare()
    async for page in share.pages(driver.scan(partition=partition)):
        await pace.take(len(page.entries))
        for few in share.slices(page.entries, most=PAGE_SIZE):
            await share.work(look.at_all, few)
        seen = sum(look.formats.values())
        listener(Progress("survey", seen, None, 0, 0, clock.monotonic() - started))
    look.judge(plaintext)
    return Survey(dict(look.formats))


async def keyless(driver: Driver, *, has_ended: bool = False) -> RecodeError:
    """Return the error of a run without a key for old records; *has_ended* if the vault keeps one still."""
    if has_ended:
        msg = "old records have appeared since reads of them ended; the vault still keeps the keys"
        return RecodeError(msg, hint="vaultctl migrate-from-fernet --import-keys reads them again")
    hint = await _likeness_of(driver) or "name the old key, for example with --fernet-key REF"
    return RecodeError("no key for old records was given, and the vault holds none", hint=hint)


async def _likeness_of(driver: Driver) -> str:
    """Return what the first entries of *driver*'s store look like, as a hint; or nothing."""
    seen = Likeness()
    pages = driver.scan()
    first = await anext(aiter(pages), None)
    for entry in () if first is None else first.entries:
        if entry.value is not None and entry.collection != META_COLLECTION:
            seen.look(entry.collection, entry.value)
    return seen.hint


class _Look:
    def __init__(self, sources: Sequence[Source], leaves: Sequence[Source]) -> None:
        self._sources = (*leaves, *sources)
        self._leaves = leaves
        self.formats: Counter[str] = Counter()
        self._sampled = self._opened = 0
        self._plaintext: list[str] = []
        self._likeness = Likeness()

    def at_all(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            if entry.collection != META_COLLECTION:
                self._at(entry)

    def _at(self, entry: Entry) -> None:
        if entry.value is not None and is_sealed(entry.value):
            self.formats[KVSEAL] += 1
            return
        if entry.value is not None:
            self._likeness.look(entry.collection, entry.value)
        source = classify(entry, self._sources)
        name = format_of(source)
        self.formats[name] += 1
        if source in self._leaves:
            return
        if name == PlaintextCodec.format:
            if len(self._plaintext) < _NAMES_SHOWN:
                self._plaintext.append(f"{entry.collection}/{entry.key}")
        elif source is not None and (self._sampled < SAMPLE or not self._opened):
            # Until one opens: the first ones may be damaged, planted, or need a lost key.
            self._sample(entry, source)

    def _sample(self, entry: Entry, source: Source) -> None:
        self._sampled += 1
        try:
            source.open(entry)
        except RecordError:
            return
        self._opened += 1

    def judge(self, plaintext: PlaintextRule) -> None:
        # If other records are finished, the legacy records that are left may all be damaged.
        if self._sampled and not self._opened and not self.formats[KVSEAL]:
            msg = f"the given keys open none of {self._sampled} legacy records"
            raise WrongLegacyKeyError(msg, hint=self._hint("check which key the old application uses"))
        if set(self.formats) == {UNDECODABLE} and self._likeness.is_authsome:
            msg = f"none of {self.formats[UNDECODABLE]} records has the format that the given keys are for"
            raise WrongLegacyKeyError(msg, hint=self._hint(""))
        count = self.formats[PlaintextCodec.format]
        if count and plaintext is PlaintextRule.REFUSE:
            msg = f"{count} records are not encrypted, for example {', '.join(self._plaintext)}"
            otherwise = "decide with --plaintext seal or --plaintext skip"
            hint = self._hint(otherwise) if self._likeness.is_authsome else f"{otherwise}; {_UNWRITTEN}"
            raise PlaintextFoundError(msg, hint=hint)

    def _hint(self, otherwise: str) -> str:
        return f"{self._likeness.hint or otherwise}; {_UNWRITTEN}"

"""What the report says of `suite.json`: every operation over every store, and a vault's own costs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    Suite = Mapping[str, Any]

_PEERS: Final = ("kvseal", "bare", "floor", "by hand", "tink", "fernet")
_STORES: Final = ("memory", "disk", "redis", "postgresql")
_OPERATIONS: Final = ("put", "get", "put_many", "get_many")
_SUMMARY_SIZE: Final = "1 KiB"
_RECORDS_ALONE: Final = "none"
_HOW_TAKEN: Final = """\
Wall time, the median of each case.  The cases follow each other rather than taking turns, so what a neighbour
does to one of them is in its figure: compare a row's figures by factors, and take ratios from the gate."""


def render(suite: Suite) -> Iterator[str]:
    """Yield the lines of the results page."""
    for group, section in _SECTIONS.items():
        rows = [row["extra_info"] for row in suite["benchmarks"] if row["group"] == group]
        if rows:
            yield from section(rows)
    yield from _comparisons(suite.get("comparisons", ()))


def summary(suite: Suite) -> Iterator[str]:
    """Yield what the project's README says: the wrapper over each store, and what does not grow."""
    yield from _over_stores(suite.get("comparisons", ()))
    lines = [
        line
        for row in suite["benchmarks"]
        if row["group"] in _SUMMARIES
        for line in _SUMMARIES[row["group"]](row["extra_info"])
    ]
    if lines:
        yield ""
        yield from lines


def _comparisons(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    titles = {
        True: "Seal and open of the bytes alone, microseconds",
        False: "Over five stores, microseconds a value",
    }
    for alone, title in titles.items():
        some = [row for row in rows if (row["store"] == _RECORDS_ALONE) == alone]
        if some:
            yield ""
            yield f"## {title}"
            yield ""
            yield _HOW_TAKEN
            yield ""
            yield from _table(some)


def _table(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    names = [name for name in _PEERS if name in rows[0]["microseconds"]]
    yield f"| store | operation | size | values a call | {' | '.join(names)} |"
    yield "|---" * (len(names) + 4) + "|"
    for row in sorted(rows, key=_order):
        times = " | ".join(f"{row['microseconds'][name]:.2f}" for name in names)
        yield f"| {row['store']} | {row['operation']} | {row['size']} | {row['batch']} | {times} |"


def _order(row: Mapping[str, Any]) -> tuple[int, int]:
    stores, operations = (_RECORDS_ALONE, "dict", *_STORES), ("seal", "open", *_OPERATIONS)
    return stores.index(row["store"]), operations.index(row["operation"])


def _over_stores(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    times = {
        (row["operation"], row["store"]): row["microseconds"] for row in rows if row["size"] == _SUMMARY_SIZE
    }
    stores = [store for store in _STORES if ("put", store) in times]
    if not stores:
        return
    yield ""
    yield f"Over real stores, values of {_SUMMARY_SIZE}: kvseal's time by that of the bare store, which keeps"
    yield "plaintext, and in brackets Fernet's; medians, one after the other rather than in turns:"
    yield ""
    yield f"| | {' | '.join(stores)} |"
    yield "|---" * (len(stores) + 1) + "|"
    for operation in _OPERATIONS:
        cells = [_beside_bare(times[operation, store]) for store in stores]
        yield f"| {operation} | {' | '.join(cells)} |"


def _beside_bare(microseconds: Mapping[str, float]) -> str:
    ours, theirs = (microseconds[name] / microseconds["bare"] for name in ("kvseal", "fernet"))
    return f"{ours:.2f} ({theirs:.2f})"


def _rotate(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield ""
    yield "## What does not grow"
    yield ""
    for facts in rows:
        yield (
            f"* Rotate over {facts['entries'] - 1:,} records in memory: {facts['changed']} of "
            f"{facts['entries']:,} entries changed."
        )


def _million(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for facts in rows:
        few, many = facts["records"]
        one, other = facts["milliseconds"]
        ratio = facts["ratio"]
        yield (
            f"* Rotate on Redis, Argon2id at its least cost, in turns: {one:.2f} ms with {few:,} records, "
            f"{other:.2f} ms with {many:,}; **{ratio['median']:.3f}** of the time "
            f"({ratio['low']:.3f}-{ratio['high']:.3f}, goal ≤ {facts['goal']:g}); "
            f"{facts['writes'][0]} and {facts['writes'][1]} writes."
        )


def _scan(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for facts in rows:
        peaks = (f"{peak / 2**20:.2f} MiB at {int(n):,} records" for n, peak in facts["peak bytes"].items())
        yield f"* Peak memory of a scan of a disk store: {', '.join(peaks)}."


def _unlock(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for facts in rows:
        times, ratio, alone = facts["milliseconds"], facts["ratio"], facts["of a derivation"]
        yield (
            f"* First `get` of {facts['wrappers']} wrappers on a disk, {facts['cost']}: "
            f"{facts['derivations']} derivation, {times['all wrappers']:.0f} ms; of one wrapper "
            f"{times['one wrapper']:.0f} ms, of Argon2id alone {times['one derivation']:.0f} ms. "
            f"**{ratio['median']:.2f}** of one wrapper's time ({ratio['low']:.2f}-{ratio['high']:.2f}, "
            f"goal ≤ {facts['goal']:g}), {alone['median']:.2f} of Argon2id's."
        )


def _stall(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield ""
    yield "## The event loop"
    yield ""
    yield "How long each kind of work blocks it, beside other work that does: milliseconds, the least,"
    yield f"the median and the most.  The goal for unlock and rotate is < {rows[0]['most']} ms."
    yield "Wall time; each kind takes turns with what it is beside."
    yield ""
    yield "| work | takes | stall | beside | its stall |"
    yield "|---|---|---|---|---|"
    for row in (row for facts in rows for row in facts["stalls"]):
        stall, beside = (
            f"{one['least']:.1f} / {one['median']:.1f} / {one['most']:.1f}"
            for one in (row["stall"], row["stall beside"])
        )
        yield f"| {row['work']} | {row['takes']:.1f} | {stall} | {row['beside']} | {beside} |"


def _sizes(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield ""
    yield "## Stored size"
    yield ""
    yield "Bytes of what the store is given, as JSON, without what the store adds:"
    yield ""
    yield "| value | plaintext | kvseal | Fernet | kvseal by Fernet |"
    yield "|---|---|---|---|---|"
    for row in (row for facts in rows for row in facts["bytes"]):
        yield (
            f"| {row['size']} | {row['plaintext']:,} | {row['kvseal']:,} | {row['fernet']:,} "
            f"| {row['kvseal'] / row['fernet']:.2f} |"
        )


_SECTIONS: Final[dict[str, Callable[[Sequence[Mapping[str, Any]]], Iterator[str]]]] = {
    "rotate": _rotate,
    "rotate at a million": _million,
    "scan": _scan,
    "unlock": _unlock,
    "stall": _stall,
    "stored size": _sizes,
}
"""What is said of each group of benchmarks, in the order of the page."""


def _say_million(facts: Mapping[str, Any]) -> Iterator[str]:
    one, other = facts["milliseconds"]
    ratio = facts["ratio"]["median"]
    yield (
        f"A rotation takes {one:.1f} ms with {facts['records'][0]:,} records and {other:.1f} ms with "
        f"{facts['records'][1]:,}, on Redis at Argon2id's least cost{_unless(ratio <= facts['goal'])}."
    )


def _say_unlock(facts: Mapping[str, Any]) -> Iterator[str]:
    times, met = facts["milliseconds"], facts["ratio"]["median"] <= facts["goal"]
    yield (
        f"The first reads of {facts['wrappers']} wrappers take {facts['derivations']} derivation and "
        f"{times['all wrappers']:.0f} ms, of one {times['one wrapper']:.0f} ms; Argon2id alone takes "
        f"{times['one derivation']:.0f} ms ({facts['cost']}){_unless(met)}."
    )


def _say_stall(facts: Mapping[str, Any]) -> Iterator[str]:
    for row in facts["stalls"]:
        if row["work"] in {"unlock", "rotate"}:
            missed = _unless(row["stall"]["median"] < facts["most"])
            yield (
                f"`{row['work']}` blocks the event loop for {row['stall']['median']:.1f} ms, "
                f"{row['stall']['most']:.1f} ms at most (goal < {facts['most']:g}){missed}; one Argon2id run "
                f"in a thread alone blocks it for {row['stall beside']['median']:.1f} ms."
            )


def _unless(met: bool) -> str:
    return "" if met else "; the goal is **missed** here"


_SUMMARIES: Final[dict[str, Callable[[Mapping[str, Any]], Iterator[str]]]] = {
    "rotate at a million": _say_million,
    "unlock": _say_unlock,
    "stall": _say_stall,
}

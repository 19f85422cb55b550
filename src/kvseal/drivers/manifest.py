"""
A manifest: the names of a store's entries, from somewhere else than the store.

    {"collection": "sessions", "key": "https://host/client"}

One JSON object a line, in UTF-8; a lone surrogate in a name is escaped.  Other fields are
ignored, and so is a line whose collection or key is `null`, so that what `vaultctl list --json`
prints is a manifest.  Everything else is an error that names the line: a name that silently
went missing would be a record that silently stays behind.

`NamedDriver` gives the names to the entries of a store that cannot give them back itself.  A
manifest only claims; a name that the driver does not prove is not given.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from kvseal import exact_json
from kvseal.concurrency import in_thread
from kvseal.drivers.abilities import place, proves
from kvseal.drivers.delegate import DelegatingDriver
from kvseal.errors import ManifestError
from kvseal.errors.operating_system import reason_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Hashable, Iterable, Iterator, Mapping
    from pathlib import Path

    from kvseal.drivers.base import Driver, Entry, Page

Names = tuple[str, str]
"""Collection and key at the base store."""

MAX_LINE: Final = 2**20
"""Bytes in a line, lest a file that is no manifest be read into memory as one."""

_HINT: Final = 'each line is {"collection": "…", "key": "…"}, as vaultctl list --json prints it'


class Manifest:
    """The names in the file *path*, read anew by each iteration and never held as a whole."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def checked(cls, path: Path) -> Manifest:
        """Return the manifest after a look at every line: what is wrong is found before the first write."""
        manifest = cls(path)
        for _ in manifest:
            pass
        return manifest

    def __iter__(self) -> Iterator[Names]:
        """
        Yield collection and key, in the order of the lines.

        Raises:
            ManifestError: the file cannot be read, or a line of it has no names.
        """
        try:
            if self.path.exists() and not self.path.is_file():
                msg = f"the manifest {self.path} is not a regular file"
                raise ManifestError(msg, hint="it is read more than once: write the names to a file first")
            with self.path.open("rb") as file:
                lines = iter(lambda: file.readline(MAX_LINE + 1), b"")
                for number, line in enumerate(lines, 1):
                    names = self._names(line, number)
                    if names is not None:
                        yield names
        except OSError as exc:
            msg = f"the manifest {self.path} cannot be read: {reason_of(exc)}"
            raise ManifestError(msg, hint="check the path and its permissions") from exc

    def _names(self, line: bytes, number: int) -> Names | None:
        """Return the names in *line*, `None` where they are `null`; a message quotes nothing of it."""
        if len(line) > MAX_LINE:
            raise self._error(number, f"is longer than {MAX_LINE} bytes")
        try:
            fields = exact_json.loads(line)
        except ValueError:
            raise self._error(number, "is not JSON") from None
        if not isinstance(fields, dict):
            raise self._error(number, "is not a JSON object")
        collection, key = (self._name(fields, field, number) for field in ("collection", "key"))
        return None if collection is None or key is None else (collection, key)

    def _name(self, fields: Mapping[str, object], field: str, number: int) -> str | None:
        name = fields.get(field, ...)
        if name is None or isinstance(name, str):
            return name
        raise self._error(number, f"has no {field}" if name is ... else f"has a {field} that is not text")

    def _error(self, number: int, what: str) -> ManifestError:
        return ManifestError(f"line {number} of {self.path} {what}", hint=_HINT)


class NamedDriver(DelegatingDriver):
    """
    *driver*, whose entries without a name get the one in *manifest* that is proven to be theirs.

    Each name of the manifest is led to its place once, so a scan looks an entry up instead of
    trying all names; the names are held in memory for that, once a scan finds an entry that
    needs one.  Where several names lead to one place, none of them is given.
    """

    def __init__(self, driver: Driver, manifest: Iterable[Names]) -> None:
        super().__init__(driver)
        self._manifest = manifest
        self._claims: Mapping[Hashable, frozenset[Names]] | None = None

    async def scan(
        self, *, after: str | None = None, partition: tuple[int, int] = (0, 1), expired: bool = False
    ) -> AsyncIterator[Page]:
        """Yield the pages of the driver's own scan, with names."""
        async for page in self._driver.scan(after=after, partition=partition, expired=expired):
            yield await self._with_names(page)

    async def scan_within(
        self, bounds: str, *, after: str | None = None, expired: bool = False
    ) -> AsyncIterator[Page]:
        """Yield the pages of the driver's own scan within *bounds*, with names."""
        async for page in super().scan_within(bounds, after=after, expired=expired):
            yield await self._with_names(page)

    async def _with_names(self, page: Page) -> Page:
        if all(_has_names(entry) for entry in page.entries):
            return page
        return await in_thread(self._named_page, page)

    def _named_page(self, page: Page) -> Page:
        if self._claims is None:
            self._claims = self._read_claims()
        claims = self._claims
        return (
            replace(page, entries=[self._named(entry, claims) for entry in page.entries]) if claims else page
        )

    def _named(self, entry: Entry, claims: Mapping[Hashable, frozenset[Names]]) -> Entry:
        if _has_names(entry):
            return entry
        named = [
            replace(entry, collection=collection, key=key, path=None)
            for collection, key in claims.get(entry.locator, ())
            if entry.collection in {None, collection} and entry.key in {None, key}
        ]
        proven = [claimed for claimed in named if proves(self._driver, claimed, claimed.key or "")]
        return proven[0] if len(proven) == 1 else entry

    def _read_claims(self) -> Mapping[Hashable, frozenset[Names]]:
        """Return the names of the manifest by the place to which they lead."""
        claims: dict[Hashable, frozenset[Names]] = {}
        for names in self._manifest:
            where = place(self._driver, *names)
            if where is not None:
                claims[where] = claims.get(where, frozenset()) | {names}
        return claims


def _has_names(entry: Entry) -> bool:
    return entry.collection is not None and entry.key is not None

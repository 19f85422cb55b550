"""
Store URLs, `scheme:location`: taken apart here, and made fit for messages.

What the location means is up to the driver.  For `disk:` it is a path and every
character of it counts, so nothing is unquoted and nothing is a query.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from kvseal.errors import UnsupportedStoreError

if TYPE_CHECKING:
    from collections.abc import Collection

_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")
_USER: Final = re.compile(r"://[^/@:]*:")
_QUERY_SECRET: Final = re.compile(
    r"(?i)([?&](?:[\w.-]*(?:password|passwd|pwd|token|secret)|authmechanismproperties)=)[^&#]*"
)


@dataclass(frozen=True, slots=True)
class StoreUrl:
    """A URL taken apart: its scheme in lower case, and the location as written, perhaps with a password."""

    scheme: str
    location: str = field(repr=False)

    @classmethod
    def parse(cls, url: str, *, schemes: Collection[str]) -> StoreUrl:
        """
        Take *url* apart.

        Raises:
            UnsupportedStoreError: the scheme is not one of *schemes*, or there is none.
        """
        scheme, colon, location = url.partition(":")
        known = ", ".join(f"{name}:" for name in sorted(schemes))
        if not colon or not _SCHEME.fullmatch(scheme):
            msg = f"{strip_password(url)!r} is not the URL of a store"
            raise UnsupportedStoreError(
                msg, hint=f"did you mean disk:{strip_password(url)}? Known schemes: {known}"
            )
        if scheme.lower() == "memory":
            msg = "a memory store lives in the process that made it, where no URL reaches it"
            raise UnsupportedStoreError(
                msg, hint="name a function that makes the store: python:module:factory"
            )
        if scheme.lower() not in schemes:
            msg = f"no driver for {scheme}: URLs"
            raise UnsupportedStoreError(msg, hint=f"known schemes: {known}")
        return cls(scheme.lower(), location)

    def option(self, name: str) -> tuple[StoreUrl, str | None]:
        """
        Split the option `?`*name*`=` off the end: return the URL without it, and its value if it is there.

        Every character of a path counts, so only the last `?`*name*`=` is an option.
        """
        location, found, value = self.location.rpartition(f"?{name}=")
        return (StoreUrl(self.scheme, location), value) if found else (self, None)

    def path(self) -> Path:
        """
        Return the location as an absolute path on this machine.

        Raises:
            UnsupportedStoreError: there is none.
        """
        # `disk:///abs` is how other URLs write an absolute path.
        text = self.location[2:] if self.location.startswith("///") else self.location
        if not text:
            msg = f"{self.scheme}: needs the path of the store"
            raise UnsupportedStoreError(msg, hint=f"write {self.scheme}:PATH")
        try:
            return Path(text).expanduser().absolute()
        except RuntimeError:
            msg = f"{self.scheme}:{text} starts with ~, and there is no such home directory"
            raise UnsupportedStoreError(msg, hint="give an absolute path, or set HOME") from None


def strip_password(url: str) -> str:
    """Return *url* with every password in it replaced by `***`, for messages and reports."""
    # Passwords are pasted without quoting, so one may hold `/`, `?` and `@`: it ends at the very last @.
    # That is looked for once: a pattern that looks for it behind each user takes quadratic time.
    end = url.rfind("@")
    user = _USER.search(url, 0, max(end, 0))
    shown = url if user is None else f"{url[: user.end()]}***{url[end:]}"
    return _QUERY_SECRET.sub(r"\1***", shown)

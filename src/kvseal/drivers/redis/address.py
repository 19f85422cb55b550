"""
URLs of Redis and Valkey databases: `scheme://[user][:password]@host[:port][/database]`, and
`unix://[user][:password]@/path/of/the/socket[?db=database]`.

They are read strictly, because what is overlooked in a URL leads to another database.  A
refusal never quotes the URL: where a password was pasted without quoting, no rule
says which part of it is the password.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qsl, unquote

from kvseal.errors import UnsupportedStoreError

_URL: Final = re.compile(
    r"//(?:(?P<username>[^:@/?#]*)(?::(?P<password>[^@/?#]*))?@)?"
    r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^:@/?#\[\]]*)(?::(?P<port>[0-9]{1,5}))?"
    r"(?:/(?P<db>[0-9]{0,9}))?(?:\?(?P<query>[^#]*))?"
)
_HINT: Final = "write {}://USER:PASSWORD@HOST:PORT/DATABASE, with %40 for an @ in the password"
_TLS_OPTIONS: Final = frozenset(
    {"ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs", "ssl_check_hostname"}
)
_SOCKET: Final = re.compile(
    r"//(?:(?P<username>[^:@/?#]*)(?::(?P<password>[^@/?#]*))?@)?(?P<path>/[^?#]+)(?:\?db=(?P<db>[0-9]{1,9}))?"
)
_DEFAULT_PORT: Final = 6379


@dataclass(frozen=True, slots=True)
class Address:
    """One database of one server, and how to be let in."""

    host: str
    port: int = _DEFAULT_PORT
    db: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: dict[str, Any] | None = None
    """Options of the TLS connection; `None` for a plain one."""
    path: str | None = None
    """The server's socket file, in place of host and port."""

    @classmethod
    def of_url(cls, scheme: str, location: str) -> Address:
        """
        Read a URL, of which *location* is what stands behind the scheme.

        With TLS, where the certificates are may follow as in redis-py's URLs:
        `?ssl_ca_certs=…&ssl_certfile=…&ssl_keyfile=…`.

        Raises:
            UnsupportedStoreError: it is not such a URL, or has an option that would go unheeded.
        """
        if scheme == "unix":
            return cls._of_socket(location)
        match = _URL.fullmatch(location)
        if match is None:
            msg = f"this is not a URL of the form {scheme}://host:port/database"
            raise UnsupportedStoreError(msg, hint=_HINT.format(scheme))
        return cls(
            host=unquote(match["host"]).strip("[]") or "localhost",
            port=int(match["port"] or _DEFAULT_PORT),
            db=int(match["db"] or 0),
            username=unquote(match["username"] or "") or None,
            password=unquote(match["password"] or "") or None,
            tls=_tls(scheme, match["query"] or ""),
        )

    @classmethod
    def _of_socket(cls, location: str) -> Address:
        match = _SOCKET.fullmatch(location)
        if match is None:
            msg = "this is not a URL of the form unix:///path/of/the/socket?db=0"
            raise UnsupportedStoreError(msg, hint="write unix://USER:PASSWORD@/PATH?db=DATABASE")
        return cls(
            host="localhost",
            db=int(match["db"] or 0),
            username=unquote(match["username"] or "") or None,
            password=unquote(match["password"] or "") or None,
            path=unquote(match["path"]),
        )

    def location(self, scheme: str) -> str:
        """Return the URL without user and password, for messages."""
        if self.path is not None:
            return f"unix://{self.path}?db={self.db}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{scheme}://{host}:{self.port}/{self.db}"

    def options(self) -> dict[str, Any]:
        """Return the keyword arguments of a redis-py connection."""
        where = {"path": self.path} if self.path is not None else {"host": self.host, "port": self.port}
        return {
            **where,
            "db": self.db,
            "username": self.username,
            "password": self.password,
            **(self.tls or {}),
        }


def _tls(scheme: str, query: str) -> dict[str, Any] | None:
    options: dict[str, Any] = dict(parse_qsl(query, keep_blank_values=True))
    # What is not an option may be a piece of a password, so it is not named.
    if not (options.keys() <= _TLS_OPTIONS if scheme == "rediss" else not query):
        msg = f"the {scheme}: URL has options that kvseal does not know"
        known = ", ".join(sorted(_TLS_OPTIONS))
        raise UnsupportedStoreError(msg, hint=f"known options, of rediss: alone: {known}")
    if "ssl_check_hostname" in options:
        options["ssl_check_hostname"] = options["ssl_check_hostname"].lower() not in {"0", "false", "no"}
    return options if scheme == "rediss" else None

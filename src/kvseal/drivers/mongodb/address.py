"""
How to connect to a MongoDB server: from a URL, or from what a store's own client was made of.

A driver connects by itself, with a blocking client in kvseal's threads: the store's client is asynchronous
and belongs to one event loop.  Whatever the client was given (hosts, TLS, credentials, compression)
counts here too, except for what concerns how documents are read and who listens.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from key_value.aio.stores.mongodb.store import DEFAULT_DB
from pymongo import AsyncMongoClient

from kvseal.drivers.mongodb.names import BY_OPTION
from kvseal.drivers.urls import strip_password
from kvseal.errors import UnsupportedStoreError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kvseal.drivers.mongodb.names import Names
    from kvseal.drivers.urls import StoreUrl

_OURS: Final = ("db_name", "names")
HINT: Final = "write mongodb://USER:PASSWORD@HOST:PORT/?db_name=NAME and percent-encode what is special in it"
# What an application's client does with documents, and which of its parts it watches.
_NOT_TAKEN: Final = frozenset({"document_class", "type_registry", "tz_aware", "event_listeners", "connect"})
_LIMITS: Final = {"serverSelectionTimeoutMS": 10_000, "connectTimeoutMS": 10_000, "socketTimeoutMS": 60_000}
"""Unless the store's client or the URL says otherwise; pymongo would wait for ever for an answer."""


@dataclass(frozen=True, slots=True)
class Address:
    """A database: the keyword arguments of a client, and where it is, for messages."""

    database: str
    location: str
    arguments: Mapping[str, Any] = field(repr=False)

    @classmethod
    def of_client(cls, client: object, database: str) -> Address:
        """
        Return the address that *client*, a store's, connects to.

        Raises:
            UnsupportedStoreError: it cannot be followed.
        """
        given = _given(client)
        if given is None or given.get("auto_encryption_opts") is not None:
            what = (
                f"a client of class {type(client).__qualname__}" if given is None else "auto_encryption_opts"
            )
            msg = f"kvseal cannot follow a MongoDBStore with {what}"
            raise UnsupportedStoreError(msg, hint="give the store a url=, or an AsyncMongoClient without it")
        host, port = given.get("host"), given.get("port")
        url = host if isinstance(host, str) and "://" in host else f"mongodb://{_hosts(host, port)}"
        taken = {name: value for name, value in given.items() if name not in _NOT_TAKEN and name[0] != "_"}
        return cls(database, _shown(url, database), _limited(taken))

    @classmethod
    def of_url(cls, url: StoreUrl) -> tuple[Address, Names]:
        """
        Return the address that *url* names, and by which rule its names lead to collections.

        The database is `db_name`, and as for MongoDBStore never the path, which says where the user is known.

        Raises:
            UnsupportedStoreError: an option is unknown, or there twice.
        """
        base, _, query = url.location.rpartition("?") if "?" in url.location else (url.location, "", "")
        options = query.split("&") if query else []
        ours = [
            option.partition("=")[::2]
            for option in options
            if option.startswith(tuple(f"{n}=" for n in _OURS))
        ]
        found = dict(ours)
        names = BY_OPTION.get(found.get("names", "plain"))
        database = found.get("db_name", DEFAULT_DB)
        if not url.location.startswith("//") or len(ours) > len(found) or not names or not database:
            msg = f"{_shown(f'{url.scheme}:{url.location}', '')} is not the URL of a MongoDB database"
            raise UnsupportedStoreError(msg, hint=f"{HINT}; ?names=plain or ?names=v1")
        others = "&".join(option for option in options if option.partition("=")[0] not in _OURS)
        full = f"{url.scheme}:{base}?{others}" if others else f"{url.scheme}:{base}"
        return cls(database, _shown(full, database), _limited({"host": full})), names


def _given(client: object) -> dict[str, Any] | None:
    """Return the arguments of an AsyncMongoClient, `None` of any other client."""
    if not isinstance(client, AsyncMongoClient):
        return None
    # Before 4.11 the attribute was private to the class.
    given = getattr(client, "_init_kwargs", None) or getattr(client, "_AsyncMongoClient__init_kwargs", None)
    return dict(given) if given else None


def _hosts(host: str | list[str] | None, port: int | None) -> str:
    hosts = host if isinstance(host, list) else [host or "localhost"]
    return ",".join(one if ":" in one else f"{one}:{port or 27017}" for one in hosts)


def _limited(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return *arguments* with a limit for every wait that they have none for."""
    query = str(arguments.get("host", "")).lower()
    given = {name.lower() for name in arguments}
    limits = {
        name: limit
        for name, limit in _LIMITS.items()
        if name.lower() not in given and f"{name.lower()}=" not in query
    }
    return {**limits, **arguments}


def _shown(url: str, database: str) -> str:
    """Return *url* for messages: without a password, and without options, some of which are secret too."""
    # The password goes first: if it holds a `?` of its own, what stands before that is a part of it.
    bare = strip_password(url).replace(":***@", "@").partition("?")[0]
    return f"{bare.rstrip('/')}/?db_name={database}" if database else bare

"""
What the drivers of Amazon's services share: a client, what its errors mean, and the service's clock.

The client is botocore's own: it blocks, is safe for threads and belongs to no event loop.  It asks where the
store asks, with the store's credentials.  Where the store names none, region and credentials come from the
SDK's own chain.  A URL names a place and never a secret.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import re
import threading
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl, urlsplit

import botocore.session
from botocore.client import BaseClient
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,  # noqa: A004 - its name in botocore
    HTTPClientError,
    NoRegionError,
)

from kvseal import clock
from kvseal.concurrency import after_fork
from kvseal.drivers.base import StoreTime, closed
from kvseal.errors import StoreError, StoreNotFoundError, StoreUnreachableError, UnsupportedStoreError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

ATTEMPTS: Final = 10
"""Of a request, in botocore's standard mode: throttling ends within a minute, or is reported."""
FEW_ATTEMPTS: Final = 3
"""Of a request that finds out whether there is a service at all."""
CONNECTIONS: Final = 32
_CONNECT_SECONDS: Final = 5
_READ_SECONDS: Final = 20
_DATE_SECONDS: Final = 1.0
"""How exact the `Date` of an answer is."""

_NO_CREDENTIALS: Final = frozenset(
    {
        "ConfigParseError",
        "CredentialRetrievalError",
        "NoAuthTokenError",
        "NoCredentialsError",
        "PartialCredentialsError",
        "ProfileNotFound",
        "SSOTokenLoadError",
        "TokenRetrievalError",
        "UnauthorizedSSOTokenError",
    }
)
_REFUSED_CREDENTIALS: Final = frozenset(
    {
        "ExpiredToken",
        "ExpiredTokenException",
        "IncompleteSignature",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "InvalidSignatureException",
        "MissingAuthenticationToken",
        "RequestTimeTooSkewed",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
    }
)
FORBIDDEN: Final = frozenset({"AccessDenied", "AccessDeniedException", "403"})
THROTTLED: Final = frozenset(
    {
        "LimitExceededException",
        "ProvisionedThroughputExceeded",
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "SlowDown",
        "Throttling",
        "ThrottlingError",
        "ThrottlingException",
        "TransactionConflict",
        "TransactionConflictException",
    }
)
"""A later request may well succeed; these did nothing."""
_SERVER_ERROR: Final = 500
_CODE: Final = re.compile(r"[\w.]{1,64}", re.ASCII)
_REGION: Final = re.compile(r"[a-z0-9-]{1,64}", re.ASCII)
_ACTION: Final = re.compile(r"\bperform: ([\w-]+:\w+)", re.ASCII)
_CHAIN_HINT: Final = "set AWS_PROFILE, or give the process a role: a URL has no credentials"


@dataclass(frozen=True, slots=True)
class Reach:
    """Which region or endpoint of a service is asked, and as who; `None` is left to the SDK's own chain."""

    region: str | None = None
    endpoint: str | None = None
    credentials: Credentials | None = field(default=None, repr=False)
    config: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """What else the client of the store is configured with, and this one has to be."""

    @classmethod
    def of_settings(cls, settings: Mapping[str, str | None]) -> Reach:
        """Return what a store was given to make its client of, by the names of `create_client`."""
        key, secret = settings.get("aws_access_key_id"), settings.get("aws_secret_access_key")
        credentials = None
        if key is not None and secret is not None:
            credentials = Credentials(key, secret, settings.get("aws_session_token"))
        return cls(settings.get("region_name"), settings.get("endpoint_url"), credentials)

    @classmethod
    def of_session(cls, session: Any, endpoint: str | None) -> Reach:
        """Return where clients of *session*, one of aioboto3, ask, with the credentials that it was given."""
        theirs = session._session._credentials  # noqa: SLF001 - the public way asks the chain
        return cls(session.region_name, endpoint, None if theirs is None else _Borrowed(theirs))

    @classmethod
    def of_client(cls, client: Any) -> Reach:
        """
        Return where *client*, which an application made, asks, and as who.

        Raises:
            UnsupportedStoreError: it is no client of botocore or aiobotocore, or signs nothing.
        """
        if not isinstance(client, BaseClient):
            msg = f"a client of class {type(client).__qualname__} does not say where it connects"
            raise UnsupportedStoreError(msg, hint="give the store region_name= and endpoint_url= instead")
        signer: Any = client._request_signer  # type: ignore[attr-defined] # noqa: SLF001 - it has no other name
        theirs = signer._credentials  # noqa: SLF001
        if theirs is None:
            msg = "the store's client signs no requests"
            raise UnsupportedStoreError(msg, hint="give the store a client with credentials")
        given = client.meta.config
        config = {name: getattr(given, name, None) for name in ("proxies", "proxies_config", "s3")}
        return cls(
            client.meta.region_name,
            client.meta.endpoint_url,
            _Borrowed(theirs),
            {name: value for name, value in config.items() if value is not None},
        )


class _Borrowed(Credentials):
    """The credentials of the application's client, as they are when a request is signed."""

    def __init__(self, theirs: Any) -> None:
        super().__init__("", "", method="kvseal-borrowed")
        self._theirs = theirs

    def get_frozen_credentials(self) -> Any:
        """Return them; those that expire are renewed as the client would renew them."""
        needs_refresh = getattr(self._theirs, "refresh_needed", None)
        if needs_refresh is not None and not needs_refresh():
            # Of credentials that are renewed: what the last renewal brought.
            return self._theirs._frozen_credentials  # noqa: SLF001 - the public way is a coroutine
        found = self._theirs.get_frozen_credentials()
        return asyncio.run(found) if inspect.iscoroutine(found) else found


@dataclass(frozen=True, slots=True)
class Answer:
    """What a service answered: a body, or the code of an error that the caller expects."""

    body: Mapping[str, Any] = field(repr=False)
    code: str = ""
    asked: float = 0.0
    answered: float = 0.0

    @property
    def was_repeated(self) -> bool:
        """Whether an earlier attempt of the same request may have done what it asks, unheard."""
        return int(self._metadata.get("RetryAttempts", 0)) > 0

    @property
    def time(self) -> StoreTime | None:
        """What time it was there, to a second; `None` if that does not say."""
        date = self._metadata.get("HTTPHeaders", {}).get("date", "")
        try:
            at = parsedate_to_datetime(date)
        except ValueError:
            return None
        return None if at.tzinfo is None else StoreTime(at, self.asked, self.answered, _DATE_SECONDS)

    @property
    def _metadata(self) -> Mapping[str, Any]:
        metadata: Mapping[str, Any] = self.body.get("ResponseMetadata", {})
        return metadata


class AwsClient:
    """
    The client of one service, made when it is first used; every method blocks.

    A child process that was forked off makes its own, because connections are not shared.
    """

    def __init__(self, service: str, reach: Reach, location: str, *, attempts: int = ATTEMPTS) -> None:
        self._service = service
        self._reach = reach
        self._location = location
        self._attempts = attempts
        self._made: tuple[int, Any] | None = None
        self._is_closed = False

    @property
    def reach(self) -> Reach:
        """Where it asks, and as who."""
        return self._reach

    def ask(self, operation: str, *, expects: Collection[str] = (), **given: Any) -> Answer:
        """
        Return what the service answers to *operation*, which may be an error whose code is in *expects*.

        Raises:
            StoreNotFoundError: there is no such table or bucket.
            StoreUnreachableError: no service, no credentials, no right to do it, or too many requests.
            StoreError: it refuses the request; nothing was done.
        """
        asked = clock.monotonic()
        try:
            body = getattr(self.client(), operation)(**given)
        except ClientError as exc:
            code = code_of(exc.response)
            if code in expects:
                return Answer(exc.response, code, asked, clock.monotonic())
            # No cause: its message may quote names and values.
            raise refusal(exc.response, operation, self._location) from None
        except (BotoCoreError, HTTPClientError, ValueError) as exc:
            raise self._failure(exc) from None
        return Answer(body, "", asked, clock.monotonic())

    def client(self) -> Any:
        """Return botocore's client; raises `StoreError` after `close`."""
        with _making:
            if self._is_closed:
                raise closed(self._location)
            if self._made is None or self._made[0] != os.getpid():
                self._made = os.getpid(), self._new()
            return self._made[1]

    def close(self) -> None:
        """Close its connections."""
        self._is_closed = True
        made, self._made = self._made, None
        if made is not None and made[0] == os.getpid():
            made[1].close()

    def _new(self) -> Any:
        session = _session()
        if self._reach.credentials is not None:
            session._credentials = self._reach.credentials  # noqa: SLF001 - the public way takes text alone
        region = self._reach.region or session.get_config_variable("region") or os.environ.get("AWS_REGION")
        config = Config(
            connect_timeout=_CONNECT_SECONDS,
            read_timeout=_READ_SECONDS,
            max_pool_connections=CONNECTIONS,
            retries={"mode": "standard", "total_max_attempts": self._attempts},
            **self._reach.config,
        )
        return session.create_client(
            self._service, region_name=region, endpoint_url=self._reach.endpoint, config=config
        )

    def _failure(self, exc: Exception) -> StoreError:
        """Return what it means that no answer came; messages of botocore may quote what was asked."""
        name = type(exc).__name__
        if isinstance(exc, NoRegionError):
            msg = f"{self._location}: no region is configured"
            return UnsupportedStoreError(msg, hint="set AWS_REGION, or add ?region=NAME to the URL")
        if name in _NO_CREDENTIALS:
            msg = f"{self._location}: this process has no credentials ({name})"
            return StoreUnreachableError(msg, hint=_CHAIN_HINT)
        if isinstance(exc, (HTTPClientError, ConnectionError)):
            msg = f"{self._location}: the service cannot be reached ({name})"
            return StoreUnreachableError(msg, hint="check the network, the region and the endpoint")
        msg = f"{self._location}: the request cannot be made ({name})"
        return StoreError(msg, hint="check the names, and the AWS configuration of this process")


_making = threading.Lock()
"""Held while a client is made, for sessions are not safe for threads."""
_loader: Any = None


def _forget_lock() -> None:
    global _making  # noqa: PLW0603 - a parent's thread may have held it when the child was forked
    _making = threading.Lock()


after_fork(_forget_lock)


def _session() -> Any:
    """Return a new session; all share the models of services, which take long to read."""
    global _loader  # noqa: PLW0603 - one for the process
    session = botocore.session.get_session()
    if _loader is None:
        _loader = session.get_component("data_loader")
    session.register_component("data_loader", _loader)
    return session


def code_of(response: Mapping[str, Any]) -> str:
    """Return the code of an error that a service answered with."""
    return str(response.get("Error", {}).get("Code", ""))


def refusal(response: Mapping[str, Any], operation: str, location: str) -> StoreError:
    """Return what the error *response* to *operation* means; it quotes no name and no value."""
    code = code_of(response)
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    shown = code if _CODE.fullmatch(code) else f"HTTP {status}"
    if code in FORBIDDEN:
        action = _ACTION.search(str(response.get("Error", {}).get("Message", "")))
        what = action[1] if action else operation
        msg = f"{location}: this process may not do {what}"
        return StoreUnreachableError(msg, hint=f"allow {what} in its IAM policy")
    if code in _REFUSED_CREDENTIALS:
        msg = f"{location}: the service does not accept this process's credentials ({shown})"
        return StoreUnreachableError(msg, hint=_CHAIN_HINT)
    if code in {"ResourceNotFoundException", "NoSuchBucket", "TableNotFoundException"}:
        msg = f"{location}: there is no such store ({shown})"
        return StoreNotFoundError(msg, hint="check the name, the region and the account")
    if code in THROTTLED:
        msg = f"{location}: the service takes no more requests ({shown})"
        return StoreUnreachableError(msg, hint="raise its capacity, or run again with --rate")
    if status >= _SERVER_ERROR:
        msg = f"{location}: the service answers with an error ({shown})"
        return StoreUnreachableError(msg, hint="run the same command again")
    msg = f"{location}: the service refused {operation} ({shown})"
    return StoreError(msg, hint="look at the request in CloudTrail; nothing was changed")


def split_url(scheme: str, location: str, options: Collection[str] = ()) -> tuple[str, Reach, dict[str, str]]:
    """
    Take `//NAME?region=…&endpoint=…` apart: return the name, what is asked, and the other *options* given.

    Raises:
        UnsupportedStoreError: it is not such a URL, has an option that would go unheeded, or credentials.
    """
    hint = f"write {scheme}://NAME?region=REGION, or with &endpoint=http://HOST:PORT"
    name, _, query = location.removeprefix("//").partition("?")
    pairs = parse_qsl(query, keep_blank_values=True)
    given = dict(pairs)
    if not location.startswith("//") or not name or "@" in name or "#" in location or "" in given.values():
        msg = f"this is not a URL of the form {scheme}://NAME?region=REGION"
        raise UnsupportedStoreError(msg, hint=hint)
    if len(given) < len(pairs) or set(given) - {"region", "endpoint", *options}:
        # It is not named: what is misspelt may be a secret.
        known = ", ".join(["region", "endpoint", *options])
        msg = f"{scheme}: URLs have the options {known}, each once"
        raise UnsupportedStoreError(msg, hint=hint)
    region, endpoint = given.pop("region", None), given.pop("endpoint", None)
    if region is not None and not _REGION.fullmatch(region):
        msg = f"{scheme}: the region is not the name of one"
        raise UnsupportedStoreError(msg, hint=hint)
    if endpoint is not None:
        _check_endpoint(endpoint, scheme)
    return name, Reach(region, endpoint), given


def _check_endpoint(endpoint: str, scheme: str) -> None:
    try:
        parts = urlsplit(endpoint)
        fits = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.username is None
        fits = fits and not (parts.password or parts.query or parts.fragment) and parts.port != 0
    except ValueError:
        fits = False
    if not fits:
        msg = f"{scheme}: the endpoint is not the address of a service"
        raise UnsupportedStoreError(msg, hint="write endpoint=https://HOST:PORT, without user and password")


def shown(scheme: str, name: str, reach: Reach) -> str:
    """Return the URL of a place, for messages and as what `split_url` takes."""
    given = (("region", reach.region), ("endpoint", reach.endpoint))
    query = "&".join(f"{option}={value}" for option, value in given if value is not None)
    return f"{scheme}://{name}?{query}" if query else f"{scheme}://{name}"

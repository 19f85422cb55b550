"""A key of the transit engine of OpenBao or HashiCorp Vault."""

from __future__ import annotations

import logging
import os
import re
from base64 import b64decode, b64encode
from contextlib import closing
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import orjson

from kvseal.envelope.wrapping import DamagedWrapError
from kvseal.errors import (
    SecretNotFoundError,
    SecretReferenceError,
    WrapKeyError,
    WrapKeyRefusedError,
    WrapKeyUnreachableError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_log = logging.getLogger("kvseal")

_SECONDS: Final = 10
"""How long one request may take to connect, and again to be answered."""
_ADDRESSES: Final = ("BAO_ADDR", "VAULT_ADDR")
_NAMESPACES: Final = ("BAO_NAMESPACE", "VAULT_NAMESPACE")
_TOKENS: Final = ("BAO_TOKEN", "VAULT_TOKEN")
_LOOPBACK: Final = {"127.0.0.1", "::1", "localhost"}
_NAME: Final = re.compile(r"[\w.-]+(?:/[\w.-]+)+", re.ASCII)
_REFUSED: Final = {
    "Unauthorized": "does not accept this process's token",
    "Forbidden": "does not let this process use the transit key {name}: token or policy forbid it",
    "InvalidPath": "has no transit engine for the key {name}",
}
_UNAVAILABLE: Final = {
    "BadGateway",
    "InternalServerError",
    "RateLimitExceeded",
    "UnexpectedError",
    "VaultDown",
    "VaultNotInitialized",
}
"""It is sealed, overloaded or in trouble, and may answer later."""


class TransitKey:
    """
    The transit key *key*, of a type that authenticates associated data, such as `aes256-gcm96`.

    *address*, *namespace* and token come from `BAO_ADDR`, `BAO_NAMESPACE`, `BAO_TOKEN` or their
    `VAULT_` cousins, the token also from `~/.vault-token`.  *token*, if given, is called for each
    request, so that a renewed one is used.

    Raises:
        SecretReferenceError: *mount* or *key* is no name.
        SecretNotFoundError: there is no address.
    """

    __slots__ = ("_key", "_mount", "_namespace", "_token", "_url")

    kind: Final = "transit"

    def __init__(
        self,
        key: str,
        *,
        mount: str = "transit",
        address: str | None = None,
        namespace: str | None = None,
        token: Callable[[], str] | None = None,
    ) -> None:
        if "/" in key or not _NAME.fullmatch(f"{mount}/{key}"):
            msg = "a transit key has the form MOUNT/KEY, of letters, digits and ._-"
            raise SecretReferenceError(msg)
        self._mount, self._key = mount, key
        self._url = address or _first_of(_ADDRESSES)
        self._namespace = namespace or _first_of(_NAMESPACES) or None
        self._token = token or _token_of_environment
        if not self._url:
            msg = f"no address is set for the service that holds the transit key {self.name}"
            raise SecretNotFoundError(msg, hint=f"set {' or '.join(_ADDRESSES)}")
        _warn_of_plain_http(self._url)

    @classmethod
    def from_reference(cls, rest: str) -> TransitKey:
        """Return the key `MOUNT/KEY`."""
        mount, _, key = rest.rpartition("/")
        return cls(key, mount=mount)

    @property
    def name(self) -> str:
        """The mount and the name of the key."""
        return f"{self._mount}/{self._key}"

    @property
    def address(self) -> str:
        """The service's URL and namespace, without what else may stand in it."""
        parts = urlsplit(self._url)
        shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
        return f"{shown} (namespace {self._namespace})" if self._namespace else shown

    def wrap(self, key: bytes, context: Mapping[str, str]) -> bytes:
        """Return the text `vault:v1:…` that the newest version of the key makes of *key*."""
        answer = self._ask("encrypt_data", context, plaintext=b64encode(key).decode())
        return self._part(answer, "ciphertext").encode()

    def unwrap(self, wrapped: bytes, context: Mapping[str, str]) -> bytes:
        """Return the key in *wrapped*, by any version of the transit key."""
        try:
            text = wrapped.decode("ascii")
        except UnicodeDecodeError:
            raise DamagedWrapError from None
        answer = self._ask("decrypt_data", context, ciphertext=text)
        try:
            return b64decode(self._part(answer, "plaintext"), validate=True)
        except ValueError:
            raise self._no_answer() from None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TransitKey) and (self.name, self.address) == (other.name, other.address)

    def __hash__(self) -> int:
        return hash((self.name, self.address))

    def __repr__(self) -> str:
        return f"<TransitKey {self.name} at {self.address}>"

    def _ask(self, method: str, context: Mapping[str, str], **given: str) -> Any:
        """Return what the service answers to one request, or raise what it means that it does not."""
        hvac, requests = _sdk()
        bound = b64encode(orjson.dumps(dict(context), option=orjson.OPT_SORT_KEYS)).decode()
        client = hvac.Client(
            url=self._url,
            token=self._token(),
            namespace=self._namespace,
            timeout=_SECONDS,
            verify=os.environ.get("BAO_CACERT") or None,
        )
        with closing(client.adapter):
            try:
                # A key that derives needs the context too; others ignore it.
                return getattr(client.secrets.transit, method)(
                    self._key, mount_point=self._mount, associated_data=bound, context=bound, **given
                )
            except hvac.exceptions.VaultError as exc:
                # No cause is attached: its message is what the service has answered.
                raise self._meaning(exc, unwraps="ciphertext" in given) from None
            except (requests.RequestException, OSError, ValueError) as exc:
                msg = f"{self.address} cannot be reached ({type(exc).__name__})"
                raise WrapKeyUnreachableError(msg, hint="check that it is running, and the address") from None

    def _meaning(self, exc: Any, *, unwraps: bool) -> Exception:
        answer = type(exc).__name__
        if answer in _REFUSED:
            msg = f"{self.address} {_REFUSED[answer].format(name=self.name)}"
            return WrapKeyRefusedError(
                msg, hint="look at the token, its policies and the service's audit log"
            )
        if answer in _UNAVAILABLE:
            msg = f"{self.address} answers with an error ({answer})"
            return WrapKeyUnreachableError(
                msg, hint="check that it is unsealed, look at its log, and try again"
            )
        return self._bad_request(" ".join(exc.errors or ()), unwraps=unwraps)

    def _bad_request(self, answered: str, *, unwraps: bool) -> Exception:
        """Distinguish what the engine has one status for; *answered* is looked at, and never shown."""
        if "encryption key not found" in answered:
            msg = f"{self.address} has no transit key {self.name}"
            return WrapKeyRefusedError(msg, hint="check its name, or create it")
        if "too old" in answered:
            msg = f"the transit key {self.name} no longer decrypts with the version that wrapped the slot"
            return WrapKeyRefusedError(
                msg, hint="lower its min_decryption_version, rotate the vault, and raise it again"
            )
        if "associated_data" in answered:
            msg = f"the transit key {self.name} is of a type that binds no context"
            return WrapKeyRefusedError(msg, hint="use one of type aes256-gcm96")
        return DamagedWrapError() if unwraps else self._no_answer()

    def _part(self, answer: Any, name: str) -> str:
        try:
            part = answer["data"][name]
        except (KeyError, TypeError):
            part = None
        if not isinstance(part, str):
            raise self._no_answer()
        return part

    def _no_answer(self) -> WrapKeyError:
        msg = f"{self.address} did not answer like a transit engine"
        return WrapKeyError(msg, hint="check for a proxy between this process and the service")


def _sdk() -> tuple[Any, Any]:
    try:
        return import_module("hvac"), import_module("requests")
    except ImportError as exc:
        msg = "transit keys need the transit extra"
        raise SecretNotFoundError(msg, hint="pip install 'kvseal[transit]'") from exc


def _first_of(variables: tuple[str, ...]) -> str:
    return next((os.environ[name] for name in variables if os.environ.get(name)), "")


def _token_of_environment() -> str:
    hvac, _ = _sdk()
    token: str | None = _first_of(_TOKENS) or hvac.utils.get_token_from_env()
    if not token:
        msg = f"there is no token: neither {' nor '.join(_TOKENS)} is set, and there is no ~/.vault-token"
        raise SecretNotFoundError(msg, hint="log in to the service first")
    return token


def _warn_of_plain_http(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme == "http" and parts.hostname not in _LOOPBACK:
        _log.warning(
            "%s is reached by plain http: the root key and a token are sent unencrypted", parts.hostname
        )

"""A symmetric key of AWS KMS."""

from __future__ import annotations

import os
import re
from contextlib import closing
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from kvseal.envelope.wrapping import DamagedWrapError
from kvseal.errors import (
    SecretNotFoundError,
    SecretReferenceError,
    WrapKeyError,
    WrapKeyRefusedError,
    WrapKeyUnreachableError,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

_CONNECT_SECONDS: Final = 5
_READ_SECONDS: Final = 10
_ATTEMPTS: Final = 3
_KEY_ID: Final = re.compile(r"[\w:/.-]{1,2048}", re.ASCII)
_ARN_REGION: Final = re.compile(r"arn:[\w-]+:kms:([\w-]+):", re.ASCII)
_CODE: Final = re.compile(r"\w{1,64}", re.ASCII)

_FORBIDDEN: Final = "does not let this process use the key {name}"
_FORBIDDEN_STATUS: Final = {401, 403}
_CREDENTIALS: Final = "does not accept this process's credentials"
_REFUSED: Final = {
    "AccessDeniedException": _FORBIDDEN,
    "DisabledException": "has disabled the key {name}",
    "ExpiredTokenException": _CREDENTIALS,
    "IncompleteSignature": _CREDENTIALS,
    "IncorrectKeyException": "did not wrap the slot under the key that {name} stands for now",
    "InvalidClientTokenId": _CREDENTIALS,
    "InvalidKeyUsageException": "does not encrypt with the key {name}: it is for something else",
    "InvalidSignatureException": _CREDENTIALS,
    "KMSInvalidStateException": "cannot use the key {name} in its state: is it about to be deleted?",
    "MissingAuthenticationToken": _CREDENTIALS,
    "NotAuthorized": _CREDENTIALS,
    "NotFoundException": "has no key {name}",
    "UnrecognizedClientException": _CREDENTIALS,
}
_UNAVAILABLE: Final = {
    "DependencyTimeoutException",
    "KMSInternalException",
    "KeyUnavailableException",
    "ThrottlingException",
}
_SERVER_ERROR: Final = 500
_UNCONFIGURED: Final = {
    "ConfigParseError",
    "CredentialRetrievalError",
    "NoCredentialsError",
    "NoRegionError",
    "PartialCredentialsError",
    "ProfileNotFound",
    "SSOTokenLoadError",
    "TokenRetrievalError",
    "UnauthorizedSSOTokenError",
}


class AwsKmsKey:
    """
    The symmetric KMS key *key_id*: the ARN or the id of a key, or an alias.

    Credentials come from boto3's usual chain, and so do *endpoint_url* and *region*, which an ARN
    names itself.  An alias is stored as such: when it is given to another key, the slot
    does not open until it is given back.

    Raises:
        SecretReferenceError: *key_id* is none.
    """

    __slots__ = ("_endpoint_url", "_key_id", "_region")

    kind: Final = "aws-kms"

    def __init__(self, key_id: str, *, region: str | None = None, endpoint_url: str | None = None) -> None:
        if not _KEY_ID.fullmatch(key_id):
            msg = "a KMS key is the ARN or the id of a key, or an alias such as alias/NAME"
            raise SecretReferenceError(msg)
        named = _ARN_REGION.match(key_id)
        self._key_id = key_id
        # boto3 itself knows AWS_DEFAULT_REGION alone.
        self._region = region or (named[1] if named else os.environ.get("AWS_REGION"))
        self._endpoint_url = endpoint_url

    @classmethod
    def from_reference(cls, rest: str) -> AwsKmsKey:
        """Return the key that *rest*, an ARN, an id or an alias, names."""
        return cls(rest)

    @property
    def name(self) -> str:
        """The key as it was named."""
        return self._key_id

    @property
    def address(self) -> str:
        """The service and its region."""
        return f"AWS KMS in {self._region}" if self._region else "AWS KMS"

    def wrap(self, key: bytes, context: Mapping[str, str]) -> bytes:
        """Return the ciphertext blob that the key makes of *key*."""
        return self._ask("encrypt", "CiphertextBlob", Plaintext=key, EncryptionContext=dict(context))

    def unwrap(self, wrapped: bytes, context: Mapping[str, str]) -> bytes:
        """Return the key in *wrapped*, if it is this very key that wrapped it."""
        return self._ask("decrypt", "Plaintext", CiphertextBlob=wrapped, EncryptionContext=dict(context))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AwsKmsKey) and (self.name, self.address) == (other.name, other.address)

    def __hash__(self) -> int:
        return hash((self.name, self.address))

    def __repr__(self) -> str:
        return f"<AwsKmsKey {self._key_id}>"

    def _ask(self, method: str, wanted: str, **given: Any) -> bytes:
        """Return what the service answers to one request, or raise what it means that it does not."""
        boto3, exceptions, config = _sdk()
        try:
            # A session of its own: boto3's default one belongs to no thread.
            with closing(
                boto3.session.Session().client(
                    "kms", region_name=self._region, endpoint_url=self._endpoint_url, config=config
                )
            ) as client:
                part: bytes = getattr(client, method)(KeyId=self._key_id, **given)[wanted]
                return part
        except exceptions.ClientError as exc:
            # No cause is attached: its message is what the service has answered.
            raise self._meaning(exc.response, unwraps=method == "decrypt") from None
        except (exceptions.HTTPClientError, exceptions.ConnectionError) as exc:
            msg = f"{self.address} cannot be reached ({type(exc).__name__})"
            raise WrapKeyUnreachableError(msg, hint="check the network and the region") from None
        except (exceptions.BotoCoreError, ValueError, KeyError) as exc:
            raise self._unusable(type(exc).__name__) from None

    def _meaning(self, response: Mapping[str, Any], *, unwraps: bool) -> Exception:
        code = str(response.get("Error", {}).get("Code", ""))
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        # A gateway in between says it by the status alone.
        refusal = _REFUSED.get(code, _FORBIDDEN if status in _FORBIDDEN_STATUS else None)
        if refusal is not None:
            msg = f"{self.address} {refusal.format(name=self.name)}"
            return WrapKeyRefusedError(msg, hint="look at the key, its policy and the caller in CloudTrail")
        if unwraps and code == "InvalidCiphertextException":
            return DamagedWrapError()
        shown = code if _CODE.fullmatch(code) else "no code"
        if code in _UNAVAILABLE or status >= _SERVER_ERROR:
            msg = f"{self.address} answers with an error ({shown})"
            return WrapKeyUnreachableError(msg, hint="try again")
        msg = f"{self.address} did not do what it was asked ({shown})"
        return WrapKeyError(msg, hint="look at the call in CloudTrail")

    def _unusable(self, error: str) -> Exception:
        if error in _UNCONFIGURED:
            msg = f"this process has no region or credentials for {self.address} ({error})"
            return SecretNotFoundError(msg, hint="set AWS_REGION and AWS_PROFILE, or give the process a role")
        msg = f"{self.address} cannot be asked ({error})"
        return WrapKeyError(msg, hint="look at the AWS configuration of this process")


def _sdk() -> tuple[Any, Any, Any]:
    try:
        boto3, exceptions = import_module("boto3"), import_module("botocore.exceptions")
        config = import_module("botocore.config").Config(
            connect_timeout=_CONNECT_SECONDS,
            read_timeout=_READ_SECONDS,
            retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
        )
    except ImportError as exc:
        msg = "AWS KMS keys need the aws-kms extra"
        raise SecretNotFoundError(msg, hint="pip install 'kvseal[aws-kms]'") from exc
    return boto3, exceptions, config

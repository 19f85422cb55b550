"""A key of AWS KMS, asked through boto3 over HTTP."""

from __future__ import annotations

import json
import sys
import urllib.request
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from tests.kms_server import REGION, ErringKms, KmsServer
from tests.servers import free_port
from tests.wrapkeys.contract import CONTEXT, KEY, WrapKeyContract

from kvseal.envelope.wrapping import DamagedWrapError
from kvseal.errors import (
    KvsealError,
    SecretNotFoundError,
    SecretReferenceError,
    WrapKeyError,
    WrapKeyRefusedError,
    WrapKeyUnreachableError,
)
from kvseal.wrapkeys import AwsKmsKey

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def wrap_key(kms: KmsServer) -> AwsKmsKey:
    """Return a new key by its ARN."""
    return AwsKmsKey.from_reference(kms.new_key())


@pytest.fixture
def unreachable(kms: KmsServer) -> AwsKmsKey:
    """Return a key at an address where nobody listens."""
    return AwsKmsKey("alias/kv", endpoint_url=f"http://127.0.0.1:{free_port()}")


class TestContract(WrapKeyContract):
    """What every wrap key does; a blob names its key, and one that names none is refused like a foreign one."""

    damaged = (DamagedWrapError, WrapKeyRefusedError)


def test_other_key(kms: KmsServer, wrap_key: AwsKmsKey) -> None:
    """What one key has wrapped, another is not used for, although the blob names the first."""
    with pytest.raises(WrapKeyRefusedError):
        AwsKmsKey(kms.new_key()).unwrap(wrap_key.wrap(KEY, CONTEXT), CONTEXT)


def test_alias(kms: KmsServer) -> None:
    """An alias is a name for whatever key has it now: after it has moved, the old wrap is refused."""
    first, second, admin = kms.new_key(), kms.new_key(), kms.client()
    admin.create_alias(AliasName="alias/kv-moved", TargetKeyId=first)
    key = AwsKmsKey("alias/kv-moved")
    wrapped = key.wrap(KEY, CONTEXT)

    assert ("alias/kv-moved", KEY) == (key.name, key.unwrap(wrapped, CONTEXT))
    admin.update_alias(AliasName="alias/kv-moved", TargetKeyId=second)
    with pytest.raises(WrapKeyRefusedError):
        key.unwrap(wrapped, CONTEXT)
    assert KEY == AwsKmsKey(first).unwrap(wrapped, CONTEXT)


def test_rotated_key(kms: KmsServer, wrap_key: AwsKmsKey) -> None:
    """A key that AWS rotates keeps its ARN, and unwraps what it wrapped before."""
    wrapped = wrap_key.wrap(KEY, CONTEXT)
    kms.client().enable_key_rotation(KeyId=wrap_key.name)

    assert KEY == wrap_key.unwrap(wrapped, CONTEXT)


@contextmanager
def identities_count(kms: KmsServer) -> Iterator[None]:
    """Let moto look at who asks, and at the policies of that user."""

    def reset(count: str) -> str:
        url, headers = f"{kms.url}/moto-api/reset-auth", {"Content-Type": "text/plain"}
        request = urllib.request.Request(url, data=count.encode(), headers=headers)
        with urllib.request.urlopen(request) as answer:
            before: str = json.load(answer)["PREVIOUS_INITIAL_NO_AUTH_ACTION_COUNT"]
            return before

    before = reset("0")
    try:
        yield
    finally:
        reset(str(before))


def test_access_denied(kms: KmsServer, wrap_key: AwsKmsKey, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user whose policy lets them decrypt opens and wraps nothing; one whom AWS does not know does neither."""
    wrapped, iam = wrap_key.wrap(KEY, CONTEXT), kms.client("iam")
    iam.create_user(UserName="reader")
    access = iam.create_access_key(UserName="reader")["AccessKey"]
    allowed = {"Effect": "Allow", "Action": "kms:Decrypt", "Resource": "*"}
    document = json.dumps({"Version": "2012-10-17", "Statement": [allowed]})
    iam.put_user_policy(UserName="reader", PolicyName="decrypt", PolicyDocument=document)

    with identities_count(kms):
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", access["AccessKeyId"])
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", access["SecretAccessKey"])
        assert KEY == wrap_key.unwrap(wrapped, CONTEXT)
        with pytest.raises(WrapKeyRefusedError, match="does not let this process use the key arn:") as caught:
            wrap_key.wrap(KEY, CONTEXT)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAUNKNOWN")
        with pytest.raises(WrapKeyRefusedError, match="does not let") as unknown:
            wrap_key.unwrap(wrapped, CONTEXT)
    for error in (caught.value, unknown.value):
        assert 12 == error.exit_code
        assert access["AccessKeyId"] not in str(error)
        assert "AKIA" not in str(error)


def test_no_such_key(kms: KmsServer) -> None:
    """A key that is not there is refused by its name."""
    with pytest.raises(WrapKeyRefusedError, match="has no key alias/nobody"):
        AwsKmsKey("alias/nobody").wrap(KEY, CONTEXT)


@pytest.mark.parametrize(
    ("code", "status", "error", "words"),
    [
        ("DisabledException", 400, WrapKeyRefusedError, "has disabled the key alias/kv"),
        ("KMSInvalidStateException", 400, WrapKeyRefusedError, "about to be deleted"),
        ("IncorrectKeyException", 400, WrapKeyRefusedError, "stands for now"),
        ("InvalidKeyUsageException", 400, WrapKeyRefusedError, "for something else"),
        ("ExpiredTokenException", 400, WrapKeyRefusedError, "credentials"),
        ("ThrottlingException", 400, WrapKeyUnreachableError, "ThrottlingException"),
        ("KeyUnavailableException", 500, WrapKeyUnreachableError, "KeyUnavailableException"),
        ("SomethingNew", 503, WrapKeyUnreachableError, "SomethingNew"),
        ("SomethingNew", 400, WrapKeyError, "did not do what it was asked"),
        ("some secret words", 400, WrapKeyError, "no code"),
    ],
)
def test_what_the_service_answers(
    code: str, status: int, error: type[KvsealError], words: str, kms: KmsServer
) -> None:
    """Each code that AWS documents has its class and its words, and the service's own are shown never."""
    with ErringKms(code, status=status, words="some secret words") as erring:
        key = AwsKmsKey("alias/kv", endpoint_url=erring.url)
        with pytest.raises(WrapKeyError, match=words) as caught:
            key.unwrap(b"blob", CONTEXT)

    assert error is type(caught.value)
    assert "secret words" not in f"{caught.value}{caught.value.hint}"
    assert (None, True) == (caught.value.__cause__, caught.value.__suppress_context__)


def test_region_of_an_arn(kms: KmsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """An ARN needs no region in the environment; an alias does."""
    arn = kms.new_key()
    monkeypatch.delenv("AWS_REGION")

    assert f"AWS KMS in {REGION}" == AwsKmsKey(arn).address
    assert AwsKmsKey(arn).wrap(KEY, CONTEXT)
    with pytest.raises(SecretNotFoundError, match="NoRegionError"):
        AwsKmsKey("alias/kv").wrap(KEY, CONTEXT)


def test_no_credentials(kms: KmsServer, wrap_key: AwsKmsKey, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without credentials, the error says what to set, and nobody is asked."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")

    with pytest.raises(SecretNotFoundError, match="NoCredentialsError"):
        wrap_key.wrap(KEY, CONTEXT)


@pytest.mark.parametrize("rest", ["alias/k v", "x" * 2049, "a\nb", "key?x=1"])
def test_what_is_no_key(rest: str) -> None:
    """A reference names a key in the characters that AWS has for it."""
    with pytest.raises(SecretReferenceError, match="a KMS key is"):
        AwsKmsKey.from_reference(rest)


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without boto3, the error says what to install."""
    monkeypatch.setitem(sys.modules, "boto3", None)

    with pytest.raises(SecretNotFoundError) as caught:
        AwsKmsKey("alias/kv").wrap(KEY, CONTEXT)
    assert "pip install 'kvseal[aws-kms]'" == caught.value.hint

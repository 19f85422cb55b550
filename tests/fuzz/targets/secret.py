"""Secrets as people and machines give them: text, files, references to them."""

from __future__ import annotations

import os

from tests.fuzz.target import MIGRATIONS, Target, a_file, scratch

from kvseal.errors import KvsealError
from kvseal.secrets import recovery_key
from kvseal.secrets.key_file import read_key_file
from kvseal.secrets.secret import Secret, generate, generate_recovery_key
from kvseal.secrets.sources import check_reference, check_unlocker, resolve, resolve_unlocker, secret_from

_SAFE = ("env:", "file:", "cred:")
"""Schemes that a test may follow wherever random text leads: a command or a terminal it must not."""


def _texts() -> list[bytes]:
    generated, recovery = (
        one(random=lambda size: bytes(range(size))).reveal() for one in (generate, generate_recovery_key)
    )
    wrapped = [
        b'"%b"' % generated,
        b"b'%b'" % recovery,
        b"export SECRET=%b\n" % generated,
        b"\xef\xbb\xbf" + recovery,
    ]
    utf16 = generated.decode().encode("utf-16")
    forms = [
        recovery.lower().replace(b"-", b" "),
        recovery[9:],
        generated[:-1],
        recovery.replace(b"0", b"O", 1),
    ]
    keys = [path.read_bytes() for path in sorted(MIGRATIONS.glob("*/keys/*"))]
    return [
        generated,
        recovery,
        *wrapped,
        utf16,
        *forms,
        b"${SECRET}",
        b"{{ .Values.secret }}",
        b"file:/x",
        b"hunter2",
        *keys,
    ]


def _secret(data: bytes) -> None:
    first = Secret(data)
    assert Secret(first.reveal()) == first
    assert repr(first) == "<Secret>"


def _from_source(data: bytes) -> None:
    secret_from(data)


def _recovery(data: bytes) -> None:
    spelled = recovery_key.canonical(data.decode("utf-8", "replace"))
    assert spelled is None or recovery_key.canonical(spelled) == spelled


def _key_file(data: bytes) -> None:
    assert read_key_file(a_file(data, "key")) == data[: 1024 * 1024]


def _references() -> list[bytes]:
    names = (
        "env:NAME",
        "env:PATH",
        "file:key",
        "file:~/x",
        "keyring:service/user",
        "fd:3",
        "cred:name",
        "prompt:",
        "cmd:pass show x",
    )
    keys = ("transit:transit/kv", "aws-kms:alias/kv", "hunter2", "file:/run/secrets/x", "")
    return [name.encode() for name in (*names, *keys)]


def _reference(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    os.environ["CREDENTIALS_DIRECTORY"] = str(scratch())
    try:
        check_unlocker(text)
    finally:
        check_reference(text)
    if text.startswith("file:"):
        # Below a folder of this test's own: no random name leads to a device that never ends.
        text = f"file:{scratch()}/{text.removeprefix('file:').replace('..', '')}"
    if text.startswith(_SAFE):
        for follow in (resolve, resolve_unlocker):
            try:
                follow(text)
            except KvsealError:
                continue


TARGETS = (
    Target("secret", (), _texts, _secret),
    Target("secret-source", ("secrets.sources.secret_from",), _texts, _from_source),
    Target("recovery-key", ("secrets.recovery_key.canonical",), _texts, _recovery),
    Target("key-file", ("secrets.key_file.read_key_file",), _texts, _key_file),
    Target(
        "secret-reference",
        tuple(
            f"secrets.sources.{name}"
            for name in ("resolve", "resolve_unlocker", "check_unlocker", "check_reference")
        ),
        _references,
        _reference,
    ),
)

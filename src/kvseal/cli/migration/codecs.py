"""From options and recipes to the codec of a format that an application made by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kvseal.cli.migration.old_secrets import old_secret
from kvseal.cli.migration.recipe import CodecKeys
from kvseal.concurrency import in_thread
from kvseal.errors import UsageError
from kvseal.legacy.by_hand import ByHandCodec
from kvseal.legacy.ciphers import AesCbcHmac, AesGcm, ChaCha20, SecretBox
from kvseal.legacy.fernet_keys import UPSTREAM, decoded_secret, derive_keys, forms_of
from kvseal.legacy.foreign import SCHEME, ForeignCodec
from kvseal.legacy.jwe import FIELD, KIND, JweCodec

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kvseal.cli.settings import Settings
    from kvseal.legacy import SealingCodec
    from kvseal.legacy.ciphers import Cipher

_CIPHERS: Final[dict[str, Callable[[bytes], Cipher]]] = {
    "aes-gcm": AesGcm,
    "chacha20-poly1305": ChaCha20,
    "secretbox": SecretBox,
}
CBC: Final = "aes-cbc-hmac"
PYTHON: Final = "python"
NAMES: Final = (*_CIPHERS, CBC, KIND)
"""The formats that kvseal knows a cipher for."""

_KEY_SIZES: Final = (16, 24, 32, 48, 64)


def codec_of_options(
    codec: str, references: Sequence[str], key_encoding: str | None
) -> tuple[str, CodecKeys]:
    """
    Return the format and the keys that `--codec`, `--key` and `--key-encoding` name.

    Raises:
        UsageError: there is no such codec, or it has no key.
    """
    is_python = codec.startswith(SCHEME)
    if codec not in NAMES and not is_python:
        msg = "--codec names no codec that kvseal knows"
        raise UsageError(msg, hint=f"give one of {', '.join(NAMES)}, or python:MODULE:CODEC")
    if not references and not is_python:
        msg = f"--codec {codec} needs a key"
        raise UsageError(msg, hint="name it with --key REF, or write a recipe")
    encoding = key_encoding or ("raw" if is_python else "base64")
    location = codec.removeprefix(SCHEME) if is_python else None
    keys = CodecKeys(keys=tuple(references), key_encoding=encoding, codec=location)
    return (PYTHON if is_python else codec), keys


async def codec_of(stored_format: str, keys: CodecKeys, settings: Settings) -> SealingCodec | ForeignCodec:
    """
    Return the codec of *stored_format* with its *keys*, which are read now.

    Raises:
        SecretError: a reference points at no key, or at none that the cipher takes.
        UsageError: the operator's own codec cannot be loaded, or a library is not installed.
    """
    found = [_key(await old_secret(reference, settings), keys.key_encoding) for reference in keys.keys]
    if keys.source_material is not None:
        material = await old_secret(keys.source_material, settings)
        salt = None if keys.salt is None else await old_secret(keys.salt, settings)
        encodings = (keys.source_material_encoding, keys.salt_encoding)
        found += await in_thread(derive_keys, keys.kdf or UPSTREAM, material, salt, encodings=encodings)
    if keys.codec is not None:
        return await in_thread(ForeignCodec, keys.codec, found)
    if stored_format == KIND:
        return JweCodec(found, keys.jwe_field or FIELD, alg=keys.alg, enc=keys.enc)
    if stored_format == CBC:
        return ByHandCodec(CBC, [await _cbc(key, keys, settings) for key in found], keys.where)
    return ByHandCodec(stored_format, [_CIPHERS[stored_format](key) for key in found], keys.where)


async def _cbc(key: bytes, keys: CodecKeys, settings: Settings) -> AesCbcHmac:
    if keys.mac_key is None:
        return AesCbcHmac.of_one_key(key, mac_hash=keys.mac_hash, mac_first=keys.mac_first)
    mac_key = _key(await old_secret(keys.mac_key, settings), keys.key_encoding)
    return AesCbcHmac(key, mac_key, mac_hash=keys.mac_hash)


def _key(content: bytes, encoding: str) -> bytes:
    """Return the key in *content*; raw, without a line break unless it only has the size of a key with it."""
    if encoding != "raw":
        return decoded_secret(content, encoding, "key")
    forms = forms_of(content)
    return next((form for form in forms if len(form) in _KEY_SIZES), forms[0])

"""From options and recipes to what opens an old vault: codecs, and keys that the new vault can hold."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kvseal.cli.migration.codecs import codec_of
from kvseal.cli.migration.old_secrets import old_secret
from kvseal.cli.migration.recipe import CodecKeys, FastMCPKeys, FernetKeys, NoKeys
from kvseal.concurrency import in_thread
from kvseal.errors import UsageError
from kvseal.keys.keyring import LegacyKey
from kvseal.legacy import FERNET, FastMCPCodec, FernetCodec
from kvseal.legacy.authsome_keys import read_master_key_file, read_master_secret
from kvseal.legacy.fastmcp import key_of_bytes_signing_key, key_of_client_secret, key_of_text_signing_key
from kvseal.legacy.fastmcp_places import cli_places, existing, fastmcp_home, proxy_places
from kvseal.legacy.fernet import parse_key
from kvseal.legacy.fernet_keys import UPSTREAM, derive_keys, forms_of, parse_keys
from kvseal.secrets.key_file import read_key_file

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from kvseal.cli.migration.recipe import AuthsomeKeys, Recipe
    from kvseal.cli.settings import Settings
    from kvseal.legacy import LegacyCodec
    from kvseal.legacy.authsome_keys import AuthsomeMasterKey
    from kvseal.legacy.fastmcp_places import Place


@dataclass(frozen=True, slots=True, repr=False)
class Origin:
    """What opens the old records; *store* is where they are, if the keys say so."""

    codecs: tuple[LegacyCodec, ...] = ()
    keys: tuple[LegacyKey, ...] = ()
    store: str | None = field(default=None)


async def fernet_or_fastmcp_origin(
    recipe: Recipe | None, given: Mapping[str, Any], settings: Settings
) -> Origin:
    """
    Return what the options of `migrate-from-fernet` name, or else the recipe.

    Raises:
        UsageError: they name the keys of more than one vault, or the recipe is for another command.
    """
    fernet = FernetKeys(
        given["fernet_keys"],
        given["source_material"],
        given["salt"],
        given["fernet_kdf"],
        given["source_material_encoding"] or "raw",
        given["salt_encoding"] or "raw",
    )
    fastmcp = FastMCPKeys(
        given["fastmcp_client_secret"],
        given["fastmcp_signing_key"],
        given["fastmcp_encryption_key"],
        given["fastmcp_server_urls"],
    )
    named = [fastmcp.client_secret, fastmcp.signing_key, fastmcp.encryption_key]
    is_fernet = fernet != FernetKeys()
    if not is_fernet and not any(named) and recipe is not None:
        if isinstance(recipe.source.keys, CodecKeys):
            raise foreign_recipe(recipe)
        return await origin_of(recipe, settings)
    if not any(named):
        return await fernet_origin(fernet, settings)
    if is_fernet or named.count(None) != len(named) - 1:
        msg = "the options name the keys of more than one vault"
        raise UsageError(
            msg, hint="give --fernet-key, or --source-material and --salt, or one --fastmcp- key"
        )
    return await fastmcp_origin(fastmcp, settings)


async def origin_of(recipe: Recipe, settings: Settings) -> Origin:
    """Return what opens the records that *recipe* is about, of every format but authsome's."""
    keys = recipe.source.keys
    if isinstance(keys, CodecKeys):
        return Origin((await codec_of(recipe.source.format, keys, settings),))
    if isinstance(keys, FernetKeys):
        return await fernet_origin(keys, settings)
    if isinstance(keys, FastMCPKeys):
        return await fastmcp_origin(keys, settings)
    if isinstance(keys, NoKeys) and recipe.source.format == "plaintext":
        return Origin()
    raise foreign_recipe(recipe)


async def fernet_origin(keys: FernetKeys, settings: Settings) -> Origin:
    """
    Return what opens the records of py-key-value's Fernet wrapper; nothing where no key was named.

    Raises:
        UsageError: the options of the key derivation contradict each other.
        SecretError: what a reference points at is no key, or no source material or salt.
    """
    problem = keys.contradiction()
    if problem is not None:
        raise UsageError(problem, hint="give what the old application derived its key from, and how")
    found = [key for reference in keys.keys for key in parse_keys(await old_secret(reference, settings))]
    if keys.source_material is not None:
        material = await old_secret(keys.source_material, settings)
        salt = None if keys.salt is None else await old_secret(keys.salt, settings)
        encodings = (keys.source_material_encoding, keys.salt_encoding)
        kdf = keys.kdf or UPSTREAM
        found += await in_thread(derive_keys, kdf, material, salt, encodings=encodings)
    found = list(dict.fromkeys(found))
    return Origin((FernetCodec(found),) if found else (), _held(found))


async def fastmcp_origin(keys: FastMCPKeys, settings: Settings) -> Origin:
    """
    Return what opens a store of FastMCP's, and where that store is unless one was named.

    Raises:
        StoreNotFoundError: no store is named after this key.
    """
    texts, places = await _fastmcp_keys(keys, settings)
    found = list(dict.fromkeys(parse_key(text) for text in texts))
    codec = FastMCPCodec(found, server_urls=keys.server_urls)
    store = None if settings.store is not None else _place(places, texts).url
    return Origin((codec,), _held(found), store)


async def authsome_masters(keys: AuthsomeKeys, settings: Settings) -> list[AuthsomeMasterKey]:
    """Return the master keys of authsome that were named."""
    masters = []
    if keys.key_file is not None:
        masters.append(read_master_key_file(await in_thread(read_key_file, keys.key_file)))
    if keys.secret is not None:
        masters.append(read_master_secret(await old_secret(keys.secret, settings)))
    return masters


def foreign_recipe(recipe: Recipe) -> UsageError:
    """Return the error about a recipe that is for another command."""
    msg = f"{recipe.path} is not a recipe for this command, but for {recipe.source.format}"
    return UsageError(msg, hint="see vaultctl -h for the command of that format")


async def _fastmcp_keys(
    keys: FastMCPKeys, settings: Settings
) -> tuple[list[bytes], Callable[[Path, bytes], tuple[Place, ...]]]:
    """Return every key that the secret can stand for, and where a store under one of them would be."""
    if keys.encryption_key is not None:
        return list(forms_of(await old_secret(keys.encryption_key, settings))), cli_places
    if keys.client_secret is not None:
        secrets = forms_of(await old_secret(keys.client_secret, settings))
        return [key_of_client_secret(secret) for secret in secrets], proxy_places
    if keys.signing_key is None:
        raise AssertionError
    signing_keys = forms_of(await old_secret(keys.signing_key, settings))
    # The secret does not show whether the server was given it as text or as bytes.
    texts = [await in_thread(key_of_text_signing_key, key) for key in signing_keys]
    return [*texts, *(key_of_bytes_signing_key(key) for key in signing_keys)], proxy_places


def _place(places: Callable[[Path, bytes], tuple[Place, ...]], texts: Sequence[bytes]) -> Place:
    home = fastmcp_home(os.environ)
    candidates = [place for text in texts for place in places(home, text)]
    # The store that is named after the key comes before the one that all servers shared.
    candidates.sort(key=lambda place: not place.fingerprint)
    first, *others = existing(candidates)
    if others:
        urls = ", ".join(place.url for place in (first, *others))
        msg = f"FastMCP has several stores that this secret could be for: {urls}"
        raise UsageError(msg, hint="migrate them one by one, each with --store URL")
    return first


def _held(keys: Sequence[bytes]) -> tuple[LegacyKey, ...]:
    return tuple(LegacyKey(FERNET, key) for key in keys)

"""
What the order of wrappers does: which of those below kvseal to warn of, and which a tool refuses.

A tool that walks a store does so through a driver, past every wrapper.  It sees neither
what a wrapper makes of a value, nor the other stores that a wrapper keeps, nor that it
forbids writing.  What stands above kvseal cannot be seen from here at all;
docs/wrappers.md has every order.
"""

from __future__ import annotations

import logging
from itertools import chain as chained
from typing import TYPE_CHECKING, Final

from key_value.aio.wrappers.compression import CompressionWrapper
from key_value.aio.wrappers.default_value import DefaultValueWrapper
from key_value.aio.wrappers.encryption.base import BaseEncryptionWrapper
from key_value.aio.wrappers.fallback import FallbackWrapper
from key_value.aio.wrappers.limit_size import LimitSizeWrapper
from key_value.aio.wrappers.passthrough_cache import PassthroughCacheWrapper
from key_value.aio.wrappers.read_only import ReadOnlyWrapper
from key_value.aio.wrappers.routing import RoutingWrapper

from kvseal.drivers.chain import DEFAULT_COLLECTION, NAMES_NONE
from kvseal.errors import UnsupportedStackError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from key_value.aio.protocols.key_value import AsyncKeyValue

    from kvseal.drivers.chain import Chain

_log = logging.getLogger("kvseal")

_CHANGES_VALUES: Final = (CompressionWrapper, BaseEncryptionWrapper)
_KEEPS_COPIES: Final = (FallbackWrapper, PassthroughCacheWrapper)

_HIDES: Final = (
    "hides its records from vaultctl, migrations and the search for a lost vault meta: put it above"
)
_DANGERS: Final[dict[type, str]] = {
    CompressionWrapper: _HIDES,
    BaseEncryptionWrapper: _HIDES,
    DefaultValueWrapper: "answers for a missing record with a value that was never sealed,"
    " so that reading one fails: put it above",
    FallbackWrapper: "reads a second store, which vaultctl, migrations and verification do not reach:"
    " verify and re-encrypt that store too before a DEK is retired",
    PassthroughCacheWrapper: "serves records from before a migration or rotation until they leave its cache:"
    " clear the cache, or wait for its longest TTL, before a DEK is retired",
    RoutingWrapper: "spreads its records over stores of which vaultctl, migrations, verification and the"
    " search for a lost vault meta reach only the default one: hand over each base store, and let no route"
    " rename",
}


def warn_of_orders(chain: Chain) -> None:
    """Log each wrapper of *chain*, which is below kvseal, that does not do there what one expects."""
    for wrapper in chain.wrappers:
        danger = _danger(wrapper, chain)
        if danger is not None:
            _log.warning("%s below kvseal %s", type(wrapper).__name__, danger)


def warn_of_blind_search(chain: Chain) -> None:
    """Log where a search of *chain*'s store cannot see the records that a vault meta was lost for."""
    blind = chained(_hiding(chain), (w for w in chain.wrappers if isinstance(w, RoutingWrapper)))
    for wrapper in blind:
        _log.warning(
            "%s hides records, so no search shows whether the vault meta of older ones was lost",
            type(wrapper).__name__,
        )


def refuse_hidden_records(chain: Chain, *, writes: bool) -> None:
    """
    Raise where a tool would not see every record of *chain*'s store as it is stored, or may not write it.

    Where the chain has kvseal itself in it, what stands above that is no hindrance: the
    values that it changes have not been sealed yet.  Copies in a second store are warned of.

    Raises:
        UnsupportedStackError: it names the wrapper, and what to hand over instead.
    """
    for wrapper in _hiding(chain):
        raise UnsupportedStackError(
            f"{type(wrapper).__name__} changes what is stored, so a driver sees something else than records",
            hint="hand over the store below it if that is where the records are; otherwise copy them into"
            " a stack that has it above kvseal",
        )
    for wrapper in chain.wrappers:
        if isinstance(wrapper, RoutingWrapper):
            raise UnsupportedStackError(
                f"{type(wrapper).__name__} leads to stores that a driver does not reach",
                hint="hand over each base store on its own",
            )
        if writes and isinstance(wrapper, ReadOnlyWrapper):
            raise UnsupportedStackError(
                f"{type(wrapper).__name__} forbids writing to this store",
                hint="hand over the store below it",
            )
    _warn_of_copies(chain)


def _warn_of_copies(chain: Chain) -> None:
    for wrapper in chain.wrappers:
        if isinstance(wrapper, _KEEPS_COPIES):
            _log.warning(
                "%s keeps records in a second store, which is not looked at: clear it, or hand it over too",
                type(wrapper).__name__,
            )


def _hiding(chain: Chain) -> Iterator[AsyncKeyValue]:
    """Yield the wrappers that change what is sealed already; those above kvseal change it before."""
    sealing = [_is_kvseal(wrapper) for wrapper in chain.wrappers]
    below = sealing.index(True) + 1 if True in sealing else 0
    return (w for w in chain.wrappers[below:] if isinstance(w, _CHANGES_VALUES))


def _is_kvseal(wrapper: AsyncKeyValue) -> bool:
    # By its mark: this layer does not import the wrapper.
    return getattr(type(wrapper), "SEALS_RECORDS", False) is True


def _danger(wrapper: AsyncKeyValue, chain: Chain) -> str | None:
    if isinstance(wrapper, LimitSizeWrapper) and _drops_silently(wrapper):
        return "drops records silently by their sealed size: let it raise, or put it above"
    if isinstance(wrapper, NAMES_NONE) and chain.default_collection != DEFAULT_COLLECTION:
        return (
            "puts what has no collection past the store's own default, which py-key-value 0.5 no longer does:"
            " name the collection in every call"
        )
    return next((danger for kind, danger in _DANGERS.items() if isinstance(wrapper, kind)), None)


def _drops_silently(wrapper: LimitSizeWrapper) -> bool:
    too_large = wrapper.max_size is not None and not wrapper.raise_on_too_large
    return too_large or (wrapper.min_size is not None and not wrapper.raise_on_too_small)

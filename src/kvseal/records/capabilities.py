"""
The capabilities of a store beside get and put: a wrapper has each exactly if the store below has it.

kvseal composes a class with exactly these methods for every kind of store, so `isinstance`
against py-key-value's runtime protocols is right.  The methods hide the vault meta.
`destroy` is never passed on: it would delete the vault meta, and on some stores everything
else in the same database.
"""

from __future__ import annotations

import sys
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from kvseal.keys.meta import META_COLLECTION

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self


class _Capability:
    """Base of the mixins: the part of the wrapper that they use."""

    key_value: Any

    def _base_collection(self, collection: str | None) -> str:
        """Return the collection's name at the base store; raises `ReservedNameError` for the vault meta's."""
        raise NotImplementedError

    async def unlock(self) -> None:
        raise NotImplementedError

    async def release(self) -> None:
        raise NotImplementedError


class Keys(_Capability):
    """`keys`, as the store below lists them."""

    async def keys(self, collection: str | None = None, *, limit: int | None = None) -> list[str]:
        """List the keys of *collection*, as completely as the store below does."""
        self._base_collection(collection)
        keys: list[str] = await self.key_value.keys(collection, limit=limit)
        return keys


class Collections(_Capability):
    """`collections`, without that of the vault meta."""

    async def collections(self, *, limit: int | None = None) -> list[str]:
        """List the collections, without that of the vault meta."""
        asked = None if limit is None else limit + 1
        names: list[str] = await self.key_value.collections(limit=asked)
        return [name for name in names if name != META_COLLECTION][:limit]


class Cull(_Capability):
    """`cull`, as the store below does it."""

    async def cull(self) -> None:
        """Remove expired entries."""
        await self.key_value.cull()


class DestroyCollection(_Capability):
    """`destroy_collection`, except that of the vault meta."""

    async def destroy_collection(self, collection: str) -> bool:
        """Remove *collection* and its entries."""
        self._base_collection(collection)
        destroyed: bool = await self.key_value.destroy_collection(collection)
        return destroyed


class Setup(_Capability):
    """`setup`: the store below, then the vault."""

    async def setup(self) -> None:
        """Set up the store below and unlock the vault, so that an error shows at start-up."""
        await self.key_value.setup()
        await self.unlock()


class Close(_Capability):
    """`close`: the vault, then the store below."""

    async def close(self) -> None:
        """Forget the keys and close the store below."""
        await self.release()
        await self.key_value.close()


class ContextManager(_Capability):
    """`async with`: enters the store below and unlocks the vault."""

    async def __aenter__(self) -> Self:
        await self.key_value.__aenter__()
        try:
            await self.unlock()
        except BaseException:
            await self.key_value.__aexit__(*sys.exc_info())
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        await self.release()
        suppressed: bool | None = await self.key_value.__aexit__(kind, error, traceback)
        return suppressed


_MIXINS: Final[dict[str, type[_Capability]]] = {
    "keys": Keys,
    "collections": Collections,
    "cull": Cull,
    "destroy_collection": DestroyCollection,
    "setup": Setup,
    "close": Close,
    "__aenter__": ContextManager,
}


def with_capabilities_of(key_value: object, wrapper: type) -> type:
    """Return *wrapper* composed with the capabilities of *key_value*."""
    offered = tuple(name for name in _MIXINS if callable(getattr(key_value, name, None)))
    return _compose(wrapper, offered)


@cache
def _compose(wrapper: type, offered: tuple[str, ...]) -> type:
    if not offered:
        return wrapper
    # The wrapper is the first base, so the mixins only add methods that it does not have.
    bases = (wrapper, *(_MIXINS[name] for name in offered))
    names = {
        "__module__": wrapper.__module__,
        "__qualname__": wrapper.__qualname__,
        "__doc__": wrapper.__doc__,
    }
    return type(wrapper.__name__, bases, names)

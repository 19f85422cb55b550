"""
Give back what aiofile keeps for each event loop; a pytest plugin.

A FileTreeStore reads its files with aiofile, which takes one context of the kernel's asynchronous I/O for each event
loop. The releases for Python 3.10 never give one back, and the whole machine has 128 of that size. A service has one
loop. The tests have hundreds.
"""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_teardown() -> Generator[None]:
    """Free the contexts of the event loops that ended with this test."""
    result = yield
    module = sys.modules.get("aiofile.aio")
    contexts: dict[Any, Any] = getattr(module, "DEFAULT_CONTEXT_STORE", {})
    # Newer releases name a loop by its id here, and free its context when it closes.
    for loop in [
        loop for loop in contexts if isinstance(loop, asyncio.AbstractEventLoop) and loop.is_closed()
    ]:
        _free(contexts.pop(loop))
    return result


def _free(context: Any) -> None:
    """Drop the kernel's context. The interpreter still holds the object, and closes it when it ends."""
    context.close = _nothing
    del context.context


def _nothing() -> None:
    """Close nothing: the context is gone."""

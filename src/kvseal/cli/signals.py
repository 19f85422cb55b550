"""Signals: what ends the program from outside ends it like Ctrl-C, so that it can clean up and be resumed."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

_ENDING: Final = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))
"""What an orchestrator, a service manager and a closed terminal send."""


@contextmanager
def interruptible_by_all() -> Iterator[None]:
    """
    While it lasts, each signal that asks a process to end interrupts what runs, as Ctrl-C does.

    A signal that the process was started to ignore, as `nohup` does, stays ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    found = {number: signal.getsignal(number) for number in (signal.SIGINT, *_ENDING)}
    # `None` is a handler that is not Python's, which could not be given back.
    before = {number: handler for number, handler in found.items() if handler not in {signal.SIG_IGN, None}}
    for number in before:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else _like_ctrl_c)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def end_at_once() -> None:
    """Let Ctrl-C end the process without a traceback: everything is done but Python's own clearing up."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)


def _like_ctrl_c(_: int, frame: FrameType | None) -> None:
    handler = signal.getsignal(signal.SIGINT)
    # Called, not raised again: an event loop that waits would see a second signal only when it wakes up.
    if callable(handler):
        handler(signal.SIGINT, frame)

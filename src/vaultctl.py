"""
vaultctl, from its first instruction on: `kvseal.cli.app` is the program, and this starts it.

Importing the program takes a moment in which Python would answer Ctrl-C with a traceback.  Nothing has
been touched by then, so the process ends at once.
"""

from __future__ import annotations

# Python itself has loaded both already, so that nothing is imported before an interruption is expected.
import os
import sys

INTERRUPTED = 130


def main() -> None:
    """Run the command line, and be interruptible before it is imported."""
    import signal  # noqa: PLC0415 - this and the other import are what takes the moment

    for number in (signal.SIGINT, signal.SIGTERM):
        # What was started to ignore a signal goes on to ignore it.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupted)
    sys.excepthook = sys.__excepthook__
    from kvseal.cli.app import main as run  # noqa: PLC0415

    run()


def _interrupted(*_: object) -> None:
    """Say so, and end at once."""
    text = "vaultctl: error: interrupted\nhint: run the same command again to resume\n"
    if "--json" in sys.argv:
        text = (
            '{"type":"error","schema":1,"code":130,"error":"KeyboardInterrupt","message":"interrupted",'
            '"hint":"run the same command again to resume"}\n'
        )
    try:
        os.write(2, text.encode())
    finally:
        os._exit(INTERRUPTED)


def _hook(kind: type[BaseException], error: BaseException, traceback: object) -> None:
    if kind is KeyboardInterrupt:
        _interrupted()
    sys.__excepthook__(kind, error, traceback)  # type: ignore[arg-type]  # as it was given


# Until the signals are taken, an interruption is an exception that no code catches.
sys.excepthook = _hook

if __name__ == "__main__":
    main()

"""
vaultctl, from its first instruction on: `kvseal.cli.app` is the program, and this starts it.

Importing the program takes a moment in which Python would answer Ctrl-C with a traceback.  Nothing has
been touched by then, so the process ends at once.
"""

from __future__ import annotations

import os
import signal
import sys

INTERRUPTED = 130


def main() -> None:
    """Run the command line, and be interruptible before it is imported."""
    for number in (signal.SIGINT, signal.SIGTERM):
        # What was started to ignore a signal goes on to ignore it.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupted)
    from kvseal.cli.app import main as run  # noqa: PLC0415 - this import is what takes the moment

    run()


def _interrupted(*_: object) -> None:
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


if __name__ == "__main__":
    main()

"""
Writes this folder's vault with fastmcp 2.13.3, then 2.14.7, both on py-key-value-aio 0.3.0.

    python migrations/0005-fastmcp-2.13-disk/make.py

Needs Python 3.11 and a package index.  Real logins at a real `OAuthProxy` with its default store, one
`DiskStore` that all servers of a machine share; only times to live are longer than FastMCP's.  Tokens and
identifiers are random, so each run writes others.
"""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import fastmcp_flow as flow
import freezing

STEPS = {"first": "fastmcp==2.13.3", "second": "fastmcp==2.14.7", "other": "fastmcp==2.14.7"}
STORAGE = "py-key-value-aio[disk]==0.3.0"


def main(folder: Path, step: str) -> None:
    """Log in, with the secret of *step*'s server, and write down what its store holds."""
    os.environ["FASTMCP_HOME"] = str(folder / "vault")
    name = "other-client.secret" if step == "other" else "client.secret"
    secret = freezing.key(folder, name, lambda: secrets.token_hex(20).encode()).decode()
    freezing.key(folder, "master.key", lambda: secrets.token_urlsafe(32).encode())
    recorder = flow.Recorder(freezing.ttl)
    recorder.attach()
    with flow.serving(secret) as (url, _):
        flow.Browser(url).login()
        if step != "other":
            _leave_things_open(url, recorder)
    lines = recorder.lines()
    if step == "other":
        lines = [{"collection": line["collection"], "key": line["key"], "opens": False} for line in lines]
    for line in lines:
        line.update(freezing.disk_times(folder / "vault/oauth-proxy", line["collection"], line["key"]))
    freezing.expect(folder, lines)


def _leave_things_open(url: str, recorder: flow.Recorder) -> None:
    refreshing, waiting, asking, late = (flow.Browser(url) for _ in range(4))
    refreshing.refresh(refreshing.login()["refresh_token"])
    waiting.register()
    waiting.authorize()
    asking.register()
    asking.consent_page()
    late.register()
    recorder.real_ttl = 0.001
    late.start()


if __name__ == "__main__":
    into = freezing.folder_of(__file__)
    if freezing.step():
        main(into, freezing.step())
    else:
        freezing.emptied(into)
        for each, package in STEPS.items():
            freezing.in_environment(__file__, into, each, package, STORAGE)
        freezing.freeze(into)

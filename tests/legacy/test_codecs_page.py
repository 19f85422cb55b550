"""The page about codecs is what a reader can do: its example is run, word for word."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from tests.test_docs import reader, run, sections

from kvseal.cli.migration.recipe import CodecKeys, read_recipe
from kvseal.legacy.by_hand import Layout

if TYPE_CHECKING:
    from pathlib import Path

PAGE = "docs/legacy-codecs.md"
BLOCKS = {heading: blocks for heading, blocks in sections(PAGE) if blocks}


@pytest.mark.processes
def test_the_example(tmp_path: Path) -> None:
    """The codec of the page opens what its application writes, and seals it for the way back."""
    for language, text in BLOCKS["A codec in Python"]:
        if language == "python":
            (tmp_path / text.splitlines()[0].removeprefix("# ")).write_text(text, encoding="utf-8")
    (shell,) = (text for language, text in BLOCKS["A codec in Python"] if language == "sh")

    # Of this very tree, where it is not the one that is installed.
    environment = {**reader(tmp_path, b""), "PYTHONPATH": os.environ.get("PYTHONPATH", "")}

    out = run("sh", shell, tmp_path, environment)

    assert "migrate: 3 records, 3 re-sealed" in out
    assert "verify: 3 records, 3 in order" in out
    assert '{"order":2}' in out
    assert "migrate-back: 3 records, 3 re-sealed" in out


def test_the_recipe(tmp_path: Path) -> None:
    """The recipe of the page is one, and says what its remarks say."""
    ((_, text),) = BLOCKS["A recipe"]
    path = tmp_path / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    path.chmod(0o600)

    recipe = read_recipe(path)

    layout = Layout("payload.ct", nonce="payload.iv", aad="app:{collection}:{key}", constants={"v": 2})
    assert "aes-gcm" == recipe.source.format
    assert CodecKeys(keys=("env:STORE_KEY",), where=layout) == recipe.source.keys

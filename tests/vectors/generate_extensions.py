"""
Write extensions-v1.json: vault metas to which a later release of kvseal has added parts.

    python -m tests.vectors.generate_extensions

The reader of verify_records.py knows no part, and never will: it stands for the oldest release in service.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.vectors.generate_records import PROVENANCE, Randomness, _vault, text_of

from kvseal import Secret
from kvseal.keys.extensions import Extensions
from kvseal.keys.meta import VaultMeta
from kvseal.keys.rootkey import RootKey

HERE = Path(__file__).parent
SECRET = Secret(b"correct horse")
OPTIONAL = {"lamp": {"colour": "größe 🔑\x1f\x7f", "n": [0, -(2**53 - 1), 2**53 - 1, True, None]}}
DEEPEST = {"a": [[[[[[{}]]]]]]}
"""Eight levels, `ext` itself counted."""


def extensions() -> dict[str, Any]:
    """Return the vectors of extensions."""
    urandom = Randomness("kvseal extensions-v1")
    critical = {"since": "0.9.1", "floor": 2}
    positive = [
        _extended(urandom, "an optional part", {"ext": OPTIONAL}),
        _extended(urandom, "eight levels", {"ext": DEEPEST}),
        _extended(urandom, "parts that are no objects", {"ext": {"a": 1, "b": None, "c": "", "d": []}}),
        _extended(urandom, "32 parts", {"ext": {f"part-{n}": n for n in range(32)}}),
        _extended(
            urandom, "a critical part", {"ext": {"tenants": critical, **OPTIONAL}, "crit": ["tenants"]}
        ),
    ]
    return {
        "format": "kvseal vault meta, version 1, with parts of a later release",
        "provenance": PROVENANCE,
        "change_is": "what becomes of a change that a reader makes that knows no part",
        "positive": positive,
        "negative": _refused(positive[0]["meta"]),
    }


def _extended(urandom: Randomness, name: str, parts: dict[str, Any]) -> dict[str, Any]:
    vault = _vault(urandom, name, [("primary", SECRET, None)])
    root = RootKey(bytes.fromhex(vault["root_key"]), bytes.fromhex(vault["meta"]["vault_id"]))
    meta = VaultMeta.from_value(vault["meta"])
    extended = replace(meta, extensions=Extensions.from_json(parts)).authenticated(root)
    return {
        "name": name,
        "secret": SECRET.reveal().hex(),
        "deks": vault["deks"],
        "change": "UnknownExtensionError" if "crit" in parts else "accepted",
        "meta": extended.as_value(),
        "record": vault["record"],
    }


def _refused(meta: dict[str, Any]) -> list[dict[str, Any]]:
    bare = {name: value for name, value in meta.items() if name != "ext"}
    part = {"since": "1"}

    def refused(name: str, ext: Any = None, crit: Any = None) -> dict[str, Any]:
        given = {name: value for name, value in (("ext", ext), ("crit", crit)) if value is not None}
        return {"name": name, "error": "VaultMetaError", "meta": {**bare, **given}}

    return [
        refused("no parts", {}),
        refused("nothing critical", {"a": part}, []),
        refused("parts that are no object", [1]),
        refused("names that are no array", {"a": part}, {"a": 1}),
        refused("33 parts", {f"part-{n}": n for n in range(33)}),
        refused("name in upper case", {"Lamp": 1}),
        refused("name that begins with a digit", {"1a": 1}),
        refused("name with an underscore", {"a_b": 1}),
        refused("name of 33 characters", {"a" * 33: 1}),
        refused("name with a line feed", {"a\n": 1}),
        refused("empty key", {"a": {"": 1}}),
        refused("key in upper case", {"a": {"B": 1}}),
        refused("key of 65 characters", {"a": {"b" * 65: 1}}),
        refused("key that is no ASCII", {"a": [{"²": 1}]}),
        refused("fraction", {"a": 0.5}),
        refused("whole number with a fraction", {"a": 1.0}),
        refused("integer of 2^53", {"a": [2**53]}),
        refused("integer of -2^53", {"a": [-(2**53)]}),
        refused("lone surrogate", {"a": "\ud800"}),
        refused("nine levels", {"a": [[[[[[[{}]]]]]]]}),
        refused("65,537 bytes", {"a": "b" * (65_537 - len('{"a":""}'))}),
        refused("critical part that is not there", {"a": part}, ["b"]),
        refused("critical part without its release", {"a": {}}, ["a"]),
        refused("critical part that is no object", {"a": ["since"]}, ["a"]),
        refused("release that is no text", {"a": {"since": 1}}, ["a"]),
        refused("release with a letter", {"a": {"since": "1.0rc1"}}, ["a"]),
        refused("release with an empty number", {"a": {"since": "1..0"}}, ["a"]),
        refused("critical parts out of order", {"a": part, "b": part}, ["b", "a"]),
        refused("critical part twice", {"a": part}, ["a", "a"]),
        refused("critical name that is no text", {"a": part}, [1]),
        refused("critical names without parts", None, ["a"]),
    ]


def main() -> None:
    """Write the file."""
    (HERE / "extensions-v1.json").write_text(text_of(extensions()), encoding="ascii")


if __name__ == "__main__":
    main()

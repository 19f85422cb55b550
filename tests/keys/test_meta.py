"""The vault meta: one spelling, and nothing in it can be changed without the root key."""

from __future__ import annotations

import json
from collections import Counter
from copy import deepcopy
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.keys.made import NOW, SECRET, VAULT_ID, Made, make, open_value
from tests.strategies import json_values

from kvseal.envelope.wrapping import WrongKeyError
from kvseal.errors import (
    DamagedSlotError,
    KDFParametersError,
    TamperedMetaError,
    UnknownMetaVersionError,
    VaultMetaError,
)
from kvseal.keys import changes
from kvseal.keys.keyring import Keyring
from kvseal.keys.meta import MAX_SLOTS, VaultMeta, is_vault_meta
from kvseal.keys.policy import Policy


@pytest.fixture(scope="module")
def made() -> Made:
    """Return a vault meta with everything in it."""
    return make()


def edited(value: dict[str, Any], path: tuple[str | int, ...], new: Any) -> dict[str, Any]:
    """Return a copy of *value* with *new* at *path*."""
    copy = deepcopy(value)
    target: Any = copy
    for step in path[:-1]:
        target = target[step]
    target[path[-1]] = new
    return copy


def paths_of(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Return the path of every leaf of *value*."""
    if isinstance(value, dict):
        return [leaf for key, child in value.items() for leaf in paths_of(child, (*path, key))]
    if isinstance(value, list):
        return [leaf for index, child in enumerate(value) for leaf in paths_of(child, (*path, index))]
    return [path]


def test_there_and_back(made: Made) -> None:
    """A meta is read back from its stored mapping as it was."""
    assert made.meta == VaultMeta.from_value(made.value)


def test_opens(made: Made) -> None:
    """The secret opens the slot, the root key the MAC and every key."""
    keyring = open_value(made.value)

    assert (4, 2, VAULT_ID) == (keyring.revision, keyring.active_dek, keyring.vault_id)
    assert [b"a" * 32, b"b" * 32] == [key.key for key in keyring.legacy]


def test_shape(made: Made) -> None:
    """The stored mapping has the fields that DESIGN names, in its order."""
    value = made.value

    assert [
        "kvseal",
        "vault_id",
        "revision",
        "created_at",
        "updated_at",
        "policy",
        "slots",
        "deks",
        "legacy",
        "handover",
        "mac",
    ] == list(value)
    assert ["successor", "mac"] == list(value["handover"])
    assert {
        "id",
        "label",
        "kind",
        "t",
        "m",
        "p",
        "salt",
        "commitment",
        "nonce",
        "wrapped",
        "created_at",
    } == set(value["slots"][0])
    assert {*value["slots"][0], "expires_at"} == set(value["slots"][1])
    assert {"number", "state", "created_at", "commitment", "nonce", "wrapped"} == set(value["deks"][0])
    assert {"id", "kind", "created_at", "commitment", "nonce", "wrapped"} == set(value["legacy"][0])
    assert ["readable", "active"] == [dek["state"] for dek in value["deks"]]


@pytest.mark.exhaustive
def test_every_flipped_bit_is_found(made: Made) -> None:
    """Any one bit flipped in the stored JSON text is no JSON, the same mapping, or an error on the way to the keys."""
    text = json.dumps(made.value, ensure_ascii=False).encode()
    outcomes: Counter[str] = Counter()
    for bit in range(8 * len(text)):
        flipped = bytearray(text)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            parsed = json.loads(bytes(flipped))
        except ValueError:
            outcomes["no JSON"] += 1
            continue
        if parsed == made.value:
            outcomes["no change"] += 1
            continue
        with pytest.raises((VaultMetaError, WrongKeyError, DamagedSlotError, KDFParametersError)) as caught:
            open_value(parsed)
        outcomes[type(caught.value).__name__] += 1

    assert {"no JSON", "VaultMetaError", "TamperedMetaError", "WrongKeyError", "DamagedSlotError"} <= {
        *outcomes
    }
    assert outcomes["TamperedMetaError"] > 1000


def test_every_field_is_authenticated(made: Made) -> None:
    """Whatever leaf is replaced by that of another valid vault, or by another type, the meta does not open."""
    other = make().value
    for path in paths_of(made.value):
        there: Any = other
        for step in path:
            there = there[step]
        for new in (there, None, True, 0, 2, 1.0, "", "x", [], {}):
            changed = edited(made.value, path, new)
            if json.dumps(changed) == json.dumps(made.value):
                continue
            with pytest.raises((VaultMetaError, WrongKeyError, DamagedSlotError, KDFParametersError)):
                open_value(changed)


def test_every_missing_field_is_found(made: Made) -> None:
    """Whatever field is left out, the meta does not open."""
    for path in paths_of(made.value):
        changed = deepcopy(made.value)
        parent: Any = changed
        for step in path[:-1]:
            parent = parent[step]
        del parent[path[-1]]

        with pytest.raises((VaultMetaError, WrongKeyError, DamagedSlotError, KDFParametersError)):
            open_value(changed)


@pytest.mark.parametrize(
    "path",
    [(), ("policy",), ("slots", 0), ("deks", 0), ("legacy", 0)],
    ids=["top", "policy", "slot", "dek", "legacy"],
)
def test_field_that_is_not_known(path: tuple[str | int, ...], made: Made) -> None:
    """A field that no meta has is malformed at every depth: none is ignored."""
    with pytest.raises(VaultMetaError, match="malformed"):
        VaultMeta.from_value(edited(made.value, (*path, "extra"), 1))


def test_pasted_old_slot(made: Made) -> None:
    """A slot that was removed cannot be pasted back from an older copy."""
    removed = changes.without_slot(made.meta, made.root, made.meta.slots[1].id, now=NOW)
    value = edited(removed.as_value(), ("slots",), made.value["slots"])

    with pytest.raises(TamperedMetaError):
        open_value(value)


def test_pasted_old_slot_in_front(made: Made) -> None:
    """Nor does a pasted slot open for its own old secret."""
    lasting = changes.with_lasting_slot(made.meta, made.root, made.meta.slots[1].id, now=NOW)
    removed = changes.without_slot(lasting, made.root, made.meta.slots[0].id, now=NOW)
    value = edited(removed.as_value(), ("slots",), made.value["slots"])

    with pytest.raises(TamperedMetaError):
        open_value(value, SECRET)


def test_slot_of_another_vault(made: Made) -> None:
    """A slot of another vault with the same secret does not open in this one."""
    value = edited(made.value, ("slots", 0), make(b"w" * 16).value["slots"][0])

    with pytest.raises(DamagedSlotError):
        open_value(value)


def test_slot_of_another_vault_of_the_same_id(made: Made) -> None:
    """Not even where that vault has the same id: the root key is another."""
    value = edited(made.value, ("slots", 0), make().value["slots"][0])

    with pytest.raises(TamperedMetaError):
        open_value(value)


@pytest.mark.parametrize(
    ("field", "new"),
    [("read_legacy", False), ("read_plaintext", True), ("binding", "none"), ("binding", "collection")],
    ids=["legacy", "plaintext", "none", "collection"],
)
def test_edited_policy(field: str, new: Any, made: Made) -> None:
    """No switch of the policy can be thrown by whoever writes to the store."""
    with pytest.raises(TamperedMetaError):
        open_value(edited(made.value, ("policy", field), new))


def test_flipped_dek_states(made: Made) -> None:
    """An older DEK cannot be made the active one again, not even by a holder of the root key."""
    value = edited(made.value, ("deks", 0, "state"), "active")
    value["deks"][1]["state"] = "readable"

    with pytest.raises(VaultMetaError, match="malformed"):
        VaultMeta.from_value(value)


def test_two_active_deks(made: Made) -> None:
    """A meta with two active DEKs is malformed before anything is derived."""
    with pytest.raises(VaultMetaError, match="malformed"):
        VaultMeta.from_value(edited(made.value, ("deks", 0, "state"), "active"))


def test_retired_dek_that_keeps_its_key(made: Made) -> None:
    """A DEK called retired that still has a key is malformed."""
    with pytest.raises(VaultMetaError, match="malformed"):
        VaultMeta.from_value(edited(made.value, ("deks", 0, "state"), "retired"))


def test_swapped_deks(made: Made) -> None:
    """Two DEKs cannot exchange their numbers."""
    value = made.value
    first, second = value["deks"]
    for field in ("commitment", "nonce", "wrapped"):
        first[field], second[field] = second[field], first[field]

    with pytest.raises(TamperedMetaError, match="does not hold the root key"):
        open_value(value)


def test_swapped_deks_by_a_holder_of_the_root_key(made: Made) -> None:
    """A wrapped DEK is bound to its number even where the MAC is right."""
    first, second = made.meta.deks
    deks = (replace(first, wrapped=second.wrapped), replace(second, wrapped=first.wrapped))
    meta = replace(made.meta, deks=deks).authenticated(made.root)

    with pytest.raises(TamperedMetaError, match="DEK 1"):
        Keyring(meta, made.root)


def test_swapped_legacy_keys(made: Made) -> None:
    """Two legacy keys cannot exchange their ids."""
    value = made.value
    value["legacy"][0]["id"], value["legacy"][1]["id"] = value["legacy"][1]["id"], value["legacy"][0]["id"]

    with pytest.raises(TamperedMetaError, match="does not hold the root key"):
        open_value(value)


@pytest.mark.parametrize("field", ["id", "kind"])
def test_swapped_legacy_key_by_a_holder_of_the_root_key(field: str, made: Made) -> None:
    """A wrapped legacy key is bound to its id and kind even where the MAC is right."""
    key = replace(made.meta.legacy[0], **{field: "another"})
    meta = replace(made.meta, legacy=(key, made.meta.legacy[1])).authenticated(made.root)

    with pytest.raises(TamperedMetaError, match="legacy key"):
        Keyring(meta, made.root)


def test_legacy_key_is_no_dek(made: Made) -> None:
    """A wrapped legacy key does not open in the place of a DEK."""
    dek = replace(made.meta.deks[0], wrapped=made.meta.legacy[0].wrapped)
    meta = replace(made.meta, deks=(dek, made.meta.deks[1])).authenticated(made.root)

    with pytest.raises(TamperedMetaError, match="DEK 1"):
        Keyring(meta, made.root)


def test_older_parts_under_a_newer_revision(made: Made) -> None:
    """The MAC of an older meta does not fit a newer one, nor the other way round."""
    older = made.history[2]
    for meta, mac in ((made.meta, older.mac), (older, made.meta.mac)):
        with pytest.raises(TamperedMetaError):
            replace(meta, mac=mac).verify(made.root)


def test_raised_revision(made: Made) -> None:
    """An older meta cannot be given a newer revision."""
    with pytest.raises(TamperedMetaError):
        replace(made.history[0], revision=9).verify(made.root)


def test_another_root_key(made: Made) -> None:
    """A meta that another root key authenticated is refused."""
    with pytest.raises(TamperedMetaError):
        made.meta.authenticated(make().root).verify(made.root)


@pytest.mark.parametrize("version", [2, 3, 2**40])
def test_later_version(version: int, made: Made) -> None:
    """A meta of a later version is its own error, whatever else is in it."""
    for value in (edited(made.value, ("kvseal",), version), {"kvseal": version, "new": []}):
        with pytest.raises(UnknownMetaVersionError, match=f"version {version}"):
            VaultMeta.from_value(value)


@pytest.mark.parametrize("version", [0, -1, True, 1.0, "1", None, [], {}], ids=repr)
def test_no_version(version: Any, made: Made) -> None:
    """Anything that is not exactly the number 1 is malformed."""
    with pytest.raises(VaultMetaError) as caught:
        VaultMeta.from_value(edited(made.value, ("kvseal",), version))
    assert VaultMetaError is type(caught.value)


@pytest.mark.parametrize(
    ("path", "new"),
    [
        pytest.param(("vault_id",), VAULT_ID.hex().upper(), id="upper-case-id"),
        pytest.param(("vault_id",), VAULT_ID.hex() + "00", id="long-id"),
        pytest.param(("vault_id",), "00 01" + VAULT_ID.hex()[4:], id="spaced-id"),
        pytest.param(("revision",), 0, id="revision-0"),
        pytest.param(("revision",), 4.0, id="revision-4.0"),
        pytest.param(("revision",), True, id="revision-true"),
        pytest.param(("revision",), 2**64, id="revision-beyond-64-bits"),
        pytest.param(("created_at",), "2026-01-02T03:04:05+00:00", id="time-with-offset"),
        pytest.param(("created_at",), "2026-01-02T03:04:05.000Z", id="time-with-fraction"),
        pytest.param(("created_at",), "2026-1-2T3:4:5Z", id="time-without-zeros"),
        pytest.param(("slots",), [], id="no-slots"),
        pytest.param(("slots",), {}, id="slots-object"),
        pytest.param(("slots",), "x", id="slots-text"),
        pytest.param(("slots", 0, "kind"), "Scrypt", id="no-kind"),
        pytest.param(("slots", 0, "id"), "00" * 7, id="short-slot-id"),
        pytest.param(("slots", 0, "id"), "\x1b[2J" + "0" * 12, id="slot-id-that-clears-a-screen"),
        pytest.param(("slots", 0, "salt"), "AAAA", id="short-salt"),
        pytest.param(("slots", 0, "salt"), "A" * 21 + "B==", id="odd-salt"),
        pytest.param(("slots", 0, "label"), "x" * 129, id="long-label"),
        pytest.param(("slots", 0, "label"), "\ud800", id="label-of-a-surrogate"),
        pytest.param(("slots", 0, "label"), "", id="empty-label"),
        pytest.param(("slots", 0, "label"), "\x1b[2J", id="label-that-clears-a-terminal"),
        pytest.param(("slots", 1, "expires_at"), None, id="expiry-null"),
        pytest.param(("slots", 0, "wrapped"), "AAAA", id="short-wrap"),
        pytest.param(("deks",), [], id="no-deks"),
        pytest.param(("deks", 0, "number"), 3, id="dek-out-of-order"),
        pytest.param(("deks", 0, "number"), 2, id="dek-twice"),
        pytest.param(("deks", 0, "number"), True, id="dek-true"),
        pytest.param(("deks", 0, "number"), 1.0, id="dek-1.0"),
        pytest.param(("deks", 0, "state"), "unknown", id="dek-state"),
        pytest.param(("deks", 0, "state"), [], id="dek-state-list"),
        pytest.param(("policy", "read_legacy"), 1, id="policy-1"),
        pytest.param(("policy", "binding"), "key", id="another-binding"),
        pytest.param(("policy", "binding"), [], id="binding-list"),
        pytest.param(("policy",), [], id="policy-list"),
        pytest.param(("handover",), None, id="handover-null"),
        pytest.param(("handover",), {}, id="handover-empty"),
        pytest.param(("handover", "successor"), "AAAA", id="short-handover"),
        pytest.param(("handover", "mac"), "AAAA", id="short-handover-mac"),
        pytest.param(("mac",), "AAAA", id="short-mac"),
        pytest.param(("mac",), None, id="no-mac"),
    ],
)
def test_malformed(path: tuple[str | int, ...], new: Any, made: Made) -> None:
    """What is not exactly as it would be written is malformed, before anything is derived."""
    with pytest.raises(VaultMetaError) as caught:
        VaultMeta.from_value(edited(made.value, path, new))
    assert VaultMetaError is type(caught.value)


@pytest.mark.parametrize("field", ["slots", "legacy"])
def test_the_same_id_twice(field: str, made: Made) -> None:
    """No two slots and no two legacy keys have one id."""
    value = made.value
    value[field][1]["id"] = value[field][0]["id"]

    with pytest.raises(VaultMetaError, match="malformed"):
        VaultMeta.from_value(value)


def test_too_many_slots(made: Made) -> None:
    """A stored meta cannot make a reader try more than 32 slots."""
    value = made.value
    value["slots"] = [{**value["slots"][0], "id": f"{number:016x}"} for number in range(MAX_SLOTS + 1)]

    with pytest.raises(VaultMetaError, match="malformed"):
        VaultMeta.from_value(value)


@pytest.mark.parametrize(
    ("field", "new"),
    [("t", 0), ("t", 65), ("t", 2**31), ("m", 7), ("m", 2**32), ("p", 0), ("p", 65), ("t", True), ("m", 8.0)],
)
def test_hostile_kdf_parameters(field: str, new: Any, made: Made) -> None:
    """Parameters out of bounds are refused while reading, before anything is allocated."""
    with pytest.raises(KDFParametersError):
        VaultMeta.from_value(edited(made.value, ("slots", 0, field), new))


def test_hostile_memory_cost(made: Made) -> None:
    """Memory above the ceiling is refused when the slot is opened, before anything is allocated."""
    value = edited(made.value, ("slots", 0, "m"), 2**32 - 1)

    with pytest.raises(KDFParametersError, match="above the ceiling"):
        open_value(value)


@pytest.mark.exhaustive
@given(value=st.dictionaries(st.sampled_from(["kvseal", "slots", "deks", "mac", "policy", "x"]), json_values))
def test_anything_else_is_malformed(value: dict[str, Any]) -> None:
    """Whatever JSON is there in the place of a meta is an error of the vault, never another one."""
    with pytest.raises(VaultMetaError):
        VaultMeta.from_value(value)


@given(data=st.data(), new=json_values)
def test_anything_in_the_place_of_a_field(data: st.DataObject, new: Any) -> None:
    """Whatever JSON is there in the place of any one field is an error of kvseal's own."""
    value = MADE.value
    path = data.draw(st.sampled_from([(field,) for field in value] + paths_of(value)))
    changed = edited(value, path, new)
    if json.dumps(changed) != json.dumps(value):
        with pytest.raises((VaultMetaError, WrongKeyError, DamagedSlotError, KDFParametersError)):
            open_value(changed)


MADE = make()


def test_message_does_not_quote_the_meta(made: Made) -> None:
    """The error of a malformed meta has no cause that could quote what is in it."""
    with pytest.raises(VaultMetaError) as caught:
        VaultMeta.from_value(edited(made.value, ("created_at",), "hunter2"))
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def test_mac_covers_types(made: Made) -> None:
    """A meta is compared by its text and not by `==`, for which 1, 1.0 and true are the same."""
    value = edited(made.value, ("slots", 0, "p"), True)

    assert value == made.value
    with pytest.raises(KDFParametersError):
        VaultMeta.from_value(value)


def test_retired_dek_leaves_the_keyring(made: Made) -> None:
    """A retired DEK keeps its number and has no key any more."""
    retired = replace(made.meta.deks[0], state="retired", wrapped=None)
    meta = replace(made.meta, deks=(retired, made.meta.deks[1])).authenticated(made.root)
    value = meta.as_value()

    assert {"number": 1, "state": "retired", "created_at": "2026-01-02T03:04:05Z"} == value["deks"][0]
    assert {2} == set(open_value(value)._deks)


@pytest.mark.parametrize(
    ("value", "expected"),
    [({"kvseal": 9}, True), ({}, False), ({"dek": "x"}, False)],
    ids=["meta", "empty", "other"],
)
def test_is_vault_meta(value: dict[str, Any], expected: bool) -> None:
    """Only what kvseal wrote, readable or not, is called a vault meta."""
    assert expected == is_vault_meta(value)


@pytest.mark.parametrize(
    "policy", [Policy(), Policy(read_legacy=True), Policy(read_plaintext=True)], ids=repr
)
def test_policy_there_and_back(policy: Policy) -> None:
    """A policy is read back as it was."""
    assert policy == Policy.from_json(policy.as_json())


def test_policy_is_strict_by_default() -> None:
    """A new vault reads sealed records bound to collection and key, and nothing else."""
    assert {"read_legacy": False, "read_plaintext": False, "binding": "collection+key"} == Policy().as_json()


def test_times_are_utc(made: Made) -> None:
    """A time of another zone is stored in UTC."""
    from datetime import timezone

    elsewhere = NOW.astimezone(timezone(timedelta(hours=9)))

    assert "2026-01-02T03:04:05Z" == replace(made.meta, updated_at=elsewhere).as_value()["updated_at"]


@pytest.mark.parametrize(("field", "count"), [("slots", 33), ("deks", 65_537), ("legacy", 65_537)])
def test_more_than_any_vault_has(field: str, count: int, made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """A meta with absurdly long lists is refused by their length, before any of it is built."""
    built: list[object] = []
    for name in ("_slot", "dek_of", "legacy_of"):
        monkeypatch.setattr(f"kvseal.keys.meta.{name}", built.append)

    with pytest.raises(VaultMetaError):
        VaultMeta.from_value({**made.value, field: made.value[field][:1] * count})
    assert [] == built

"""Root key and keyring: what they unlock, and that they never leave the process."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
from tests.keys.made import NOW, SECRET, VAULT_ID, Made, make, slot

from kvseal import Policy
from kvseal.envelope.record import Binding
from kvseal.errors import LastSlotError, TamperedMetaError, TamperedRecordError, UnknownDEKError, VaultError
from kvseal.keys import changes
from kvseal.keys.keyring import Keyring, LegacyKey
from kvseal.keys.meta import MAX_SLOTS
from kvseal.keys.rootkey import RootKey


@pytest.fixture(scope="module")
def made() -> Made:
    """Return a vault meta with everything in it."""
    return make()


def holders(made: Made) -> dict[str, Any]:
    """Return everything that holds a key in memory."""
    keyring = Keyring(made.meta, made.root)
    codec = keyring.codecs[""]
    return {
        "RootKey": made.root,
        "Keyring": keyring,
        "LegacyKey": keyring.legacy[0],
        "RecordCodec": codec,
        "Sealer": codec._seal.__self__,
        "Opener": codec._open.__self__,
        "XAES256GCM": codec._seal.__self__._xaes,
    }


NAMES = ["RootKey", "Keyring", "LegacyKey", "RecordCodec", "Sealer", "Opener", "XAES256GCM"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_never_pickled(name: str, protocol: int, made: Made) -> None:
    """Nothing that holds a key can be pickled."""
    with pytest.raises((TypeError, pickle.PicklingError)):
        pickle.dumps(holders(made)[name], protocol)


@pytest.mark.parametrize("name", ["RootKey", "Keyring", "LegacyKey", "XAES256GCM"])
@pytest.mark.parametrize("use", [copy.copy, copy.deepcopy], ids=["copy", "deepcopy"])
def test_never_copied(name: str, use: Any, made: Made) -> None:
    """Nothing that holds keys by themselves can be copied."""
    with pytest.raises(TypeError, match="not pickled or copied"):
        use(holders(made)[name])


@pytest.mark.parametrize("name", NAMES)
def test_no_key_in_repr(name: str, made: Made) -> None:
    """No repr shows a key, in whatever spelling."""
    deks = [made.root.unwrap_dek(dek.wrapped, dek.number) for dek in made.meta.deks if dek.wrapped]
    shown = repr(holders(made)[name])

    for key in (made.root.reveal(), *deks, b"a" * 32):
        assert not any(text in shown for text in (repr(key)[2:-1], key.hex()))


@pytest.mark.parametrize("name", NAMES)
def test_no_dict(name: str, made: Made) -> None:
    """None of them has a `__dict__` for `vars` and debuggers to show."""
    assert not hasattr(holders(made)[name], "__dict__")


@pytest.mark.parametrize("size", [0, 16, 31, 33])
def test_root_key_of_another_size(size: int) -> None:
    """A root key has 32 bytes."""
    with pytest.raises(ValueError, match=f"32 bytes, not {size}"):
        RootKey(bytes(size), VAULT_ID)


def test_purposes_are_separate(made: Made) -> None:
    """The same bytes wrapped as a DEK and as a legacy key are told apart by their commitments."""
    dek, legacy = made.root.wrap_dek(b"x" * 32, 1), made.root.wrap_legacy(b"x" * 32, "fernet", "id")

    assert dek.commitment != legacy.commitment
    with pytest.raises(TamperedMetaError):
        made.root.unwrap_dek(legacy, 1)


def test_legacy_kind_and_id_cannot_be_shifted(made: Made) -> None:
    """Kind and id of a legacy key do not run into each other."""
    wrapped = made.root.wrap_legacy(b"x" * 32, "ab", "c")

    with pytest.raises(TamperedMetaError):
        made.root.unwrap_legacy(wrapped, "a", "bc")


def test_dek_is_bound_to_its_vault(made: Made) -> None:
    """A DEK wrapped for another vault under the same root key does not open."""
    wrapped = RootKey(made.root.reveal(), b"w" * 16).wrap_dek(b"x" * 32, 1)

    with pytest.raises(TamperedMetaError):
        made.root.unwrap_dek(wrapped, 1)


def test_keyring_seals_with_the_active_dek_and_opens_with_all(made: Made) -> None:
    """After a DEK rotation older records open and new ones name the new DEK."""
    before = Keyring(made.history[0], made.root).codecs[""].seal({"a": 1}, "c", "k")
    after = Keyring(made.meta, made.root).codecs[""]

    assert 2 == after.active_dek
    assert ({"a": 1}, None) == after.open(before, "c", "k")
    with pytest.raises(UnknownDEKError):
        Keyring(made.history[0], made.root).codecs[""].open(after.seal({}, "c", "k"), "c", "k")


def test_contexts_are_separate(made: Made) -> None:
    """Wrappers of two contexts do not read each other's records."""
    keyring = Keyring(made.meta, made.root)

    assert keyring.codecs["x"] is keyring.codecs["x"]
    with pytest.raises(TamperedRecordError):
        keyring.codecs["y"].open(keyring.codecs["x"].seal({}, "c", "k"), "c", "k")


def test_policy_decides_the_binding() -> None:
    """New records are bound as the policy says, and weaker ones are refused."""
    root = RootKey.generate(VAULT_ID)
    strict, loose = (
        Keyring(changes.first(root, slot(root, SECRET), Policy(binding=binding), now=NOW), root)
        for binding in (Binding.COLLECTION, Binding.NONE)
    )
    sealed = strict.codecs[""].seal({}, "c", "k")

    assert ({}, None) == strict.codecs[""].open(sealed, "c", "another")
    with pytest.raises(TamperedRecordError):
        strict.codecs[""].open(sealed, "d", "k")
    assert loose.policy.binding > strict.policy.binding


def test_keyring_verifies_first(made: Made) -> None:
    """A keyring of a meta that another root key authenticated is never built."""
    with pytest.raises(TamperedMetaError):
        Keyring(made.meta, make().root)


def test_every_change_raises_the_revision(made: Made) -> None:
    """Each change is the next revision and opens under the same root key."""
    assert [1, 2, 3, 4] == [meta.revision for meta in made.history]
    for meta in made.history:
        meta.verify(made.root)


def test_dek_numbers_are_never_used_twice(made: Made) -> None:
    """The next DEK has the next number, and exactly one is active."""
    second = changes.with_new_dek(made.meta, made.root, now=NOW, at=NOW)
    meta = changes.with_new_dek(second, made.root, now=NOW, at=NOW)

    assert [(1, "readable"), (2, "readable"), (3, "readable"), (4, "active")] == [
        (dek.number, dek.state) for dek in meta.deks
    ]


def test_last_slot_cannot_be_removed(made: Made) -> None:
    """The last slot stays, and so does the last that has not expired."""
    with pytest.raises(LastSlotError):
        changes.without_slot(made.history[0], made.root, made.history[0].slots[0].id, now=NOW)
    much_later = NOW.replace(year=2099)
    with pytest.raises(LastSlotError):
        changes.without_slot(made.meta, made.root, made.meta.slots[0].id, now=much_later)


def test_as_many_slots_as_there_can_be(made: Made) -> None:
    """The 33rd slot is refused."""
    meta, one = made.history[0], made.history[0].slots[0]
    for number in range(MAX_SLOTS - 1):
        meta = changes.with_slot(
            meta,
            made.root,
            one.__class__(f"{number:016x}", one.label, one.params, one.salt, one.wrapped, one.created_at),
            now=NOW,
        )

    with pytest.raises(VaultError, match="32 keyslots"):
        changes.with_slot(meta, made.root, one, now=NOW)


def test_legacy_keys_open_a_window_and_close_it(made: Made) -> None:
    """Holding legacy keys lets legacy records be read; the vault is strict again before they are dropped."""
    closed = changes.without_legacy_reads(made.meta, made.root, now=NOW, at=NOW)
    ids = frozenset(key.id for key in made.meta.legacy)
    again = changes.with_legacy_reads_again(closed, made.root, now=NOW)

    assert Policy(read_legacy=True) == made.meta.policy
    assert (Policy(), {NOW}) == (closed.policy, {key.ended_at for key in closed.legacy})
    assert (frozenset(), ()) == (closed.old_key_ids, Keyring(closed, made.root).legacy)
    assert (made.meta.policy, made.meta.legacy) == (again.policy, again.legacy)
    assert () == changes.without_legacy_keys(closed, made.root, ids=ids, now=NOW).legacy
    assert again.legacy == changes.without_legacy_keys(again, made.root, ids=ids, now=NOW).legacy


def test_a_key_that_has_ended_is_held_anew(made: Made) -> None:
    """An import of a key with which reads have ended begins them again, and holds it once."""
    closed = changes.without_legacy_reads(made.meta, made.root, now=NOW, at=NOW)
    keys = Keyring(made.meta, made.root).legacy

    opened = changes.with_legacy_keys(closed, made.root, keys=keys, plaintext=False, now=NOW, at=NOW)

    assert keys == Keyring(opened, made.root).legacy
    assert len(made.meta.legacy) == len(opened.legacy)


def test_window_for_plaintext_does_not_close_by_itself(made: Made) -> None:
    """Adding a further legacy key without plaintext leaves the window for plaintext as it was."""
    opened = changes.with_legacy_keys(made.meta, made.root, keys=[], plaintext=True, now=NOW, at=NOW)
    further = changes.with_legacy_keys(
        opened, made.root, keys=[LegacyKey("fernet", b"c" * 32)], plaintext=False, now=NOW, at=NOW
    )

    assert further.policy.read_plaintext

"""Sealing and opening: what a record is bound to, and what its randomness is drawn for."""

from __future__ import annotations

import os
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from tests.envelope.associated import associated_data
from tests.strategies import any_text

from kvseal.envelope import sealing
from kvseal.envelope.aead import XAES256GCM
from kvseal.envelope.record import MAX_DEK, Binding, Header
from kvseal.envelope.sealing import Associations, Opener, Sealer
from kvseal.errors import (
    MalformedRecordError,
    RecordError,
    TamperedRecordError,
    UnknownDEKError,
    UnknownFlagsError,
    UnknownRecordVersionError,
    UnknownSuiteError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

VAULT_ID, OTHER_VAULT_ID = b"v" * 16, b"w" * 16
DEK, OTHER_DEK = b"k" * 32, b"l" * 32

bindings = pytest.mark.parametrize("binding", list(Binding), ids=lambda binding: binding.name.lower())


def sealer(
    *,
    dek: bytes = DEK,
    number: int = 1,
    vault_id: bytes = VAULT_ID,
    context: str = "",
    binding: Binding = Binding.COLLECTION_AND_KEY,
    urandom: Callable[[int], bytes] = os.urandom,
) -> Sealer:
    """Return a sealer of the test vault, but for what is given."""
    return Sealer(dek, number, Associations(vault_id, context=context), binding=binding, urandom=urandom)


def opener(
    deks: dict[int, bytes] | None = None,
    *,
    vault_id: bytes = VAULT_ID,
    context: str = "",
    weakest: Binding = Binding.COLLECTION_AND_KEY,
) -> Opener:
    """Return an opener of the test vault, but for what is given."""
    return Opener(deks or {1: DEK}, Associations(vault_id, context=context), weakest=weakest)


def counting() -> Callable[[int], bytes]:
    """Return a urandom whose draws are 1, 2, 3 …"""
    numbers = count(1)
    return lambda size: next(numbers).to_bytes(size, "big")


@given(
    payload=st.binary(max_size=100),
    collection=any_text,
    key=any_text,
    context=any_text,
    number=st.integers(1, MAX_DEK),
    binding=st.sampled_from(Binding),
    encoding=st.integers(0, 2),
    expires_at=st.none() | st.integers(-(2**63), 2**63 - 1),
)
def test_open_undoes_seal(
    payload: bytes,
    collection: str,
    key: str,
    context: str,
    number: int,
    binding: Binding,
    encoding: int,
    expires_at: int | None,
) -> None:
    """What was sealed comes back under the same names, and the header says how it was sealed."""
    record = sealer(number=number, context=context, binding=binding).seal(
        payload, collection, key, encoding=encoding, expires_at=expires_at
    )
    header = Header.parse(record)

    assert payload == opener({number: DEK}, context=context, weakest=binding).open(record, collection, key)
    assert (number, binding, encoding, expires_at) == (
        header.dek,
        header.binding,
        header.encoding,
        header.expires_at,
    )


@given(
    collection=any_text,
    key=any_text,
    context=any_text,
    binding=st.sampled_from(Binding),
    expires_at=st.none() | st.integers(-(2**63), 2**63 - 1),
)
def test_record_is_the_documented_construction(
    collection: str, key: str, context: str, binding: Binding, expires_at: int | None
) -> None:
    """A record is its header and the XAES-256-GCM of the payload with the documented AAD."""
    record = sealer(context=context, binding=binding).seal(b"payload", collection, key, expires_at=expires_at)
    header = Header.parse(record)
    aad = associated_data(VAULT_ID, header, collection, key, context=context)

    assert record == header.encode() + XAES256GCM(DEK).seal(header.nonce, b"payload", aad)


@bindings
@pytest.mark.parametrize("expires_at", [None, 1_800_000_000_000], ids=["lasting", "expiring"])
def test_every_flipped_bit_of_a_record_is_found(binding: Binding, expires_at: int | None) -> None:
    """A record with any one bit flipped raises; no bit is without meaning."""
    record = sealer(binding=binding).seal(b'{"a":1}', "c", "k", expires_at=expires_at)
    reader = opener({1: DEK, 2: OTHER_DEK}, weakest=Binding.NONE)
    for bit in range(8 * len(record)):
        flipped = bytearray(record)
        flipped[bit // 8] ^= 1 << bit % 8

        with pytest.raises(RecordError):
            reader.open(bytes(flipped), "c", "k")


@pytest.mark.parametrize("expires_at", [None, 1_800_000_000_000], ids=["lasting", "expiring"])
def test_every_truncation_is_found(expires_at: int | None) -> None:
    """A record that lost its end, or has one more byte, raises."""
    record = sealer().seal(b'{"a":1}', "c", "k", expires_at=expires_at)

    for changed in (*(record[:size] for size in range(len(record))), record + b"\x00"):
        with pytest.raises(RecordError):
            opener().open(changed, "c", "k")


@pytest.mark.parametrize(
    ("sealed_as", "opened_as"),
    [
        pytest.param(("c", "k"), ("c", "other"), id="another-key"),
        pytest.param(("c", "k"), ("other", "k"), id="another-collection"),
        pytest.param(("c", "k"), ("k", "c"), id="swapped"),
        pytest.param(("ab", "c"), ("a", "bc"), id="shifted-left"),
        pytest.param(("a", "bc"), ("ab", "c"), id="shifted-right"),
        pytest.param(("", "k"), ("k", ""), id="shifted-whole"),
        pytest.param(("c", "k"), ("c", ""), id="to-the-empty-key"),
        pytest.param(("c", ""), ("c", "k"), id="from-the-empty-key"),
        pytest.param(("c", "k"), ("C", "k"), id="case"),
        pytest.param(("c", "\u00e4"), ("c", "a\u0308"), id="unicode-normal-form"),
        pytest.param(("c", "k"), ("c", "k\x00"), id="nul"),
    ],
)
def test_moved_to_another_name(sealed_as: tuple[str, str], opened_as: tuple[str, str]) -> None:
    """A record opens under its own name alone."""
    record = sealer().seal(b"{}", *sealed_as)

    assert b"{}" == opener().open(record, *sealed_as)
    with pytest.raises(TamperedRecordError):
        opener().open(record, *opened_as)


@given(collection=any_text, key=any_text, other=st.tuples(any_text, any_text))
def test_moved_anywhere(collection: str, key: str, other: tuple[str, str]) -> None:
    """No two names share their records."""
    assume((collection, key) != other)

    with pytest.raises(TamperedRecordError):
        opener().open(sealer().seal(b"{}", collection, key), *other)


@given(joined=any_text, cut=st.integers(0, 10), other=st.integers(0, 10))
def test_names_cannot_be_shifted(joined: str, cut: int, other: int) -> None:
    """Names that read alike when joined are still different names."""
    names, shifted = (joined[:cut], joined[cut:]), (joined[:other], joined[other:])
    assume(names != shifted)

    with pytest.raises(TamperedRecordError):
        opener().open(sealer().seal(b"{}", *names), *shifted)


@bindings
def test_moved_to_another_vault(binding: Binding) -> None:
    """A record of another vault is refused, even under the same DEK and without bound names."""
    record = sealer(vault_id=OTHER_VAULT_ID, binding=binding).seal(b"{}", "c", "k")

    with pytest.raises(TamperedRecordError):
        opener(weakest=Binding.NONE).open(record, "c", "k")


@bindings
@pytest.mark.parametrize(
    ("sealed_in", "opened_in"),
    [("", "x"), ("x", ""), ("x", "y"), ("x", "xx")],
    ids=["to-a-context", "out-of-a-context", "to-another", "to-a-longer"],
)
def test_moved_to_another_context(sealed_in: str, opened_in: str, binding: Binding) -> None:
    """A record opens in its own context alone."""
    record = sealer(context=sealed_in, binding=binding).seal(b"{}", "c", "k")

    assert b"{}" == opener(context=sealed_in, weakest=binding).open(record, "c", "k")
    with pytest.raises(TamperedRecordError):
        opener(context=opened_in, weakest=binding).open(record, "c", "k")


def test_context_is_not_a_part_of_the_key() -> None:
    """What looks like a context in a key is none."""
    record = sealer(context="x").seal(b"{}", "c", "k")

    with pytest.raises(TamperedRecordError):
        opener().open(record, "c", "k\x00\x00\x00\x01x")


def test_moved_to_another_dek_number() -> None:
    """A record whose DEK number was changed is refused, even where that number holds the same DEK."""
    record = sealer().seal(b"{}", "c", "k")
    renumbered = record[:4] + (2).to_bytes(4, "big") + record[8:]

    with pytest.raises(TamperedRecordError):
        opener({1: DEK, 2: DEK}).open(renumbered, "c", "k")
    with pytest.raises(TamperedRecordError):
        opener({1: DEK, 2: OTHER_DEK}).open(renumbered, "c", "k")


def test_unknown_dek() -> None:
    """A DEK number that the keyring does not hold is its own error, and says which it holds."""
    record = sealer(number=7).seal(b"{}", "c", "k")

    with pytest.raises(UnknownDEKError, match="DEK 7; this keyring holds 1, 3"):
        opener({3: OTHER_DEK, 1: DEK}).open(record, "c", "k")


def test_unknown_dek_is_found_again() -> None:
    """That a DEK was unknown once is not remembered in place of an answer."""
    record, reader = sealer(number=7).seal(b"{}", "c", "k"), opener()

    for _ in range(2):
        with pytest.raises(UnknownDEKError):
            reader.open(record, "c", "k")


@pytest.mark.parametrize(
    ("offset", "byte", "error"),
    [
        pytest.param(0, 2, UnknownRecordVersionError, id="version"),
        pytest.param(1, 2, UnknownSuiteError, id="suite"),
        pytest.param(2, 0b0000_0011, UnknownFlagsError, id="encoding-3"),
        pytest.param(2, 0b0001_1000, UnknownFlagsError, id="names-inside-of-a-weaker-binding"),
        pytest.param(2, 0b0011_0000, UnknownFlagsError, id="binding-3"),
        pytest.param(2, 0b0100_0000, UnknownFlagsError, id="flag-6"),
        pytest.param(2, 0b1000_0000, UnknownFlagsError, id="flag-7"),
        pytest.param(3, 1, MalformedRecordError, id="reserved"),
        pytest.param(7, 0, MalformedRecordError, id="dek-0"),
        pytest.param(7, 9, UnknownDEKError, id="dek-9"),
        pytest.param(2, 0b0000_0001, TamperedRecordError, id="encoding-1"),
        pytest.param(2, 0b0000_0010, TamperedRecordError, id="encoding-2"),
        pytest.param(2, 0b0000_0100, TamperedRecordError, id="expiry-claimed"),
        pytest.param(2, 0b0000_1000, TamperedRecordError, id="names-inside-claimed"),
        pytest.param(2, 0b0001_0000, TamperedRecordError, id="binding-weakened"),
        pytest.param(8, 0xFF, TamperedRecordError, id="nonce"),
        pytest.param(-1, 0xFF, TamperedRecordError, id="tag"),
    ],
)
def test_changed_byte_has_its_own_error(offset: int, byte: int, error: type[RecordError]) -> None:
    """Each part of a header that is not as it should be has its own error, and never a subclass of it."""
    record = bytearray(sealer(urandom=bytes).seal(b'{"a":12345678}', "c", "k"))
    record[offset] = byte

    with pytest.raises(error) as caught:
        opener(weakest=Binding.NONE).open(bytes(record), "c", "k")
    assert error is type(caught.value)


@pytest.mark.parametrize(
    ("offset", "byte", "error"),
    [
        pytest.param(0, 2, UnknownRecordVersionError, id="version"),
        pytest.param(1, 2, UnknownSuiteError, id="suite"),
        pytest.param(2, 0b0000_0111, UnknownFlagsError, id="encoding-3"),
        pytest.param(2, 0b0000_0000, TamperedRecordError, id="expiry-denied"),
        pytest.param(3, 1, MalformedRecordError, id="reserved"),
        pytest.param(7, 0, MalformedRecordError, id="dek-0"),
        pytest.param(7, 9, UnknownDEKError, id="dek-9"),
        pytest.param(32, 0xFF, TamperedRecordError, id="expiry"),
        pytest.param(39, 0xFF, TamperedRecordError, id="expiry-by-milliseconds"),
    ],
)
def test_changed_byte_of_a_record_that_expires(offset: int, byte: int, error: type[RecordError]) -> None:
    """The header of a record with an expiry is looked at as closely, and so is the expiry."""
    record = bytearray(sealer(urandom=bytes).seal(b'{"a":12345678}', "c", "k", expires_at=10**12))
    record[offset] = byte

    with pytest.raises(error) as caught:
        opener(weakest=Binding.NONE).open(bytes(record), "c", "k")
    assert error is type(caught.value)


@pytest.mark.parametrize(
    ("weakest", "accepted"),
    [
        (Binding.COLLECTION_AND_KEY, {Binding.COLLECTION_AND_KEY}),
        (Binding.COLLECTION, {Binding.COLLECTION_AND_KEY, Binding.COLLECTION}),
        (Binding.NONE, set(Binding)),
    ],
    ids=lambda value: value.name.lower() if isinstance(value, Binding) else "-",
)
def test_binding_weaker_than_policy_is_refused(weakest: Binding, accepted: set[Binding]) -> None:
    """A record of a binding weaker than the policy is refused; the policy's own and stronger ones open."""
    for binding in Binding:
        record = sealer(binding=binding).seal(b"{}", "c", "k")
        if binding in accepted:
            assert b"{}" == opener(weakest=weakest).open(record, "c", "k")
        else:
            with pytest.raises(TamperedRecordError, match="weaker"):
                opener(weakest=weakest).open(record, "c", "k")


@pytest.mark.parametrize(
    ("binding", "names"),
    [(Binding.COLLECTION, ("c", "another")), (Binding.NONE, ("another", "another"))],
    ids=["collection", "none"],
)
def test_weaker_bindings_bind_what_they_say(binding: Binding, names: tuple[str, str]) -> None:
    """A record bound to less than its name may be moved as far as its binding allows."""
    record = sealer(binding=binding).seal(b"{}", "c", "k")

    assert b"{}" == opener(weakest=binding).open(record, *names)


def test_binding_to_the_collection_binds_the_collection() -> None:
    """A record bound to its collection is refused in another."""
    record = sealer(binding=Binding.COLLECTION).seal(b"{}", "c", "k")

    with pytest.raises(TamperedRecordError):
        opener(weakest=Binding.COLLECTION).open(record, "d", "k")


def test_empty_key_and_left_out_key_are_not_the_same() -> None:
    """A record of the empty key and one bound to the collection differ, though both encode no key."""
    unbound = bytearray(sealer(binding=Binding.COLLECTION).seal(b"{}", "c", ""))
    unbound[2] = 0

    with pytest.raises(TamperedRecordError):
        opener().open(bytes(unbound), "c", "")


def test_sealing_twice_gives_two_records() -> None:
    """The same payload for the same name is never sealed to the same bytes."""
    one = sealer()
    records = {one.seal(b"{}", "c", "k") for _ in range(100)}

    assert 100 == len(records)


def test_nonces_never_repeat() -> None:
    """Ten thousand records of a few writers have as many nonces."""
    writers = [sealer() for _ in range(4)]
    nonces = [Header.parse(writers[n % 4].seal(b"{}", "c", "k")).nonce for n in range(10_000)]

    assert 10_000 == len(set(nonces))


def test_one_draw_per_run_and_one_per_record() -> None:
    """The first 12 nonce bytes are drawn once, the last 12 for each record."""
    one = sealer(urandom=counting())
    nonces = [Header.parse(one.seal(b"{}", "c", "k")).nonce for _ in range(3)]

    assert [bytes(11) + b"\x01" + bytes(11) + bytes((n,)) for n in (2, 3, 4)] == nonces


def test_derived_key_is_renewed_at_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """No derived key seals more records than its limit, and what comes after opens as well."""
    monkeypatch.setattr(sealing, "RECORDS_PER_DERIVED_KEY", 3)
    one = sealer(urandom=counting())
    records = [one.seal(b"{}", "c", "k") for _ in range(8)]
    starts = [record[8:20][-1] for record in records]

    assert [1, 1, 1, 5, 5, 5, 9, 9] == starts
    assert {b"{}"} == {opener().open(record, "c", "k") for record in records}


def test_limit_is_2_to_the_20() -> None:
    """A writer that has used up its budget of 2^20 records draws a new start of the nonce."""
    one = sealer(urandom=counting())
    before = one.seal(b"{}", "c", "k")
    budget: Iterator[int] = one.run[2]
    spent = 1 + sum(1 for _ in budget)
    after = one.seal(b"{}", "c", "k")

    assert 2**20 == spent
    assert before[8:20] != after[8:20]
    assert b"{}" == opener().open(after, "c", "k")


def test_two_writers_draw_two_starts() -> None:
    """Each writer has a start of the nonce of its own."""
    assert sealer().seal(b"{}", "c", "k")[8:20] != sealer().seal(b"{}", "c", "k")[8:20]


class Counted(XAES256GCM):
    """Counts how many keys were derived."""

    derived = 0

    def derive(self, nonce_start: bytes) -> AESGCM:
        """Derive and count."""
        type(self).derived += 1
        return super().derive(nonce_start)


def test_reader_keeps_derived_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader derives once for all records of one writer's run."""
    monkeypatch.setattr(Counted, "derived", 0)
    monkeypatch.setattr(sealing, "XAES256GCM", Counted)
    reader, one = opener(), sealer()
    written = Counted.derived
    for _ in range(10):
        reader.open(one.seal(b"{}", "c", "k"), "c", "k")

    assert 1 == Counted.derived - written


def test_reader_keeps_a_bounded_number_of_derived_keys() -> None:
    """However many writers there were, a reader keeps the derived keys of the last thousand or so."""
    reader = opener()
    for _ in range(sealing._DERIVED_KEYS + 50):
        reader.open(sealer().seal(b"{}", "c", "k"), "c", "k")

    assert sealing._DERIVED_KEYS == reader._derived.cache_info().currsize
    assert sealing._DERIVED_KEYS <= 4096


def test_forged_records_do_not_grow_the_reader() -> None:
    """Records of DEKs that do not exist leave nothing behind in the reader."""
    reader, record = opener(), sealer().seal(b"{}", "c", "k")
    for number in range(2, 100):
        with pytest.raises(UnknownDEKError):
            reader.open(record[:4] + number.to_bytes(4, "big") + record[8:], "c", "k")

    assert 0 == reader._derived.cache_info().currsize


def test_any_object_that_can_open_has_no_key_in_its_repr() -> None:
    """The reprs of sealer and opener show no key."""
    objects: list[Any] = [sealer(), opener(), XAES256GCM(DEK)]

    assert not any(repr(DEK)[2:-1] in repr(one) or DEK.hex() in repr(one) for one in objects)

"""The record header: its offsets, its one valid encoding, and what is authenticated."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from tests.envelope.associated import associated_data
from tests.strategies import any_text

from kvseal.envelope.payload import Encoding
from kvseal.envelope.record import (
    MAX_DEK,
    MIN_SIZE,
    Binding,
    Header,
    bound_names,
    context_field,
    encode_expiry,
    name_field,
)
from kvseal.errors import (
    MalformedRecordError,
    RecordError,
    UnknownFlagsError,
    UnknownRecordVersionError,
    UnknownSuiteError,
)

FORMAT = Path(__file__).parents[2] / "docs" / "format.md"
VAULT_ID, TAG = bytes(range(16)), bytes(16)

headers = st.builds(
    Header,
    dek=st.integers(1, MAX_DEK),
    nonce=st.binary(min_size=24, max_size=24),
    encoding=st.sampled_from(Encoding),
    binding=st.sampled_from(Binding),
    expires_at=st.none() | st.integers(-(2**63), 2**63 - 1),
)

REAL_OFFSETS = {(0, 1), (1, 1), (2, 1), (3, 1), (4, 4), (8, 24), (32, 8)}


def sample(**fields: Any) -> bytes:
    """Return a record with an empty ciphertext and this header."""
    return Header(**{"dek": 1, "nonce": bytes(24), **fields}).encode() + TAG


def patched(record: bytes, offset: int, byte: int) -> bytes:
    """Return *record* with one byte replaced."""
    return record[:offset] + bytes((byte,)) + record[offset + 1 :]


def table_rows(text: str, row: str) -> set[tuple[int, int]]:
    """Return the (offset, size) pairs of the lines that match *row*."""
    return {(int(offset), int(size)) for offset, size in re.findall(row, text, re.MULTILINE)}


@given(header=headers)
def test_parse_undoes_encode(header: Header) -> None:
    """Every header is read back as it was written."""
    assert header == Header.parse(header.encode() + TAG)


@given(flags=st.integers(0, 63), reserved=st.integers(0, 1), rest=st.binary(min_size=52, max_size=70))
def test_encode_undoes_parse(flags: int, reserved: int, rest: bytes) -> None:
    """Bytes that parse as a header have no other spelling: writing it again gives the same bytes."""
    record = bytes((1, 1, flags, reserved)) + rest
    try:
        header = Header.parse(record)
    except RecordError:
        return

    assert record.startswith(header.encode())


def test_real_offsets() -> None:
    """Every field lies where the format says, with the size that it says."""
    plain = sample(dek=0x01020304, nonce=bytes(range(1, 25)))
    full = Header(0x01020304, bytes(range(1, 25)), Encoding.EXTENDED_JSON, Binding.NONE, -2).encode()

    assert bytes((1, 1, 0, 0)) == plain[:4]
    assert bytes((1, 2, 3, 4)) == plain[4:8]
    assert bytes(range(1, 25)) == plain[8:32]
    assert TAG == plain[32:]
    assert 0b0010_0101 == full[2]
    assert plain[3:32] == full[3:32]
    assert bytes.fromhex("fffffffffffffffe") == full[32:40]
    assert len(full) == 40


def test_docstring_of_the_header_has_the_real_offsets() -> None:
    """The table in `Header`'s docstring is the one above."""
    # Python 3.13 takes the indentation out of docstrings itself.
    assert REAL_OFFSETS == table_rows(inspect.getdoc(Header) or "", r"^(\d+) +(\d+) +\S")


def test_normative_document_has_the_real_offsets() -> None:
    """The first table of section 2 in docs/format.md is the one above."""
    section = FORMAT.read_text(encoding="utf-8").partition("## 2. The record")[2]
    table, _, _ = section.partition("\n\nFlags:")

    assert REAL_OFFSETS == table_rows(table, r"^\| *(\d+) *\| *(\d+) *\|")


@pytest.mark.parametrize(
    ("flags", "fields"),
    [
        (0b0000_0000, {}),
        (0b0000_0001, {"encoding": Encoding.EXTENDED_JSON}),
        (0b0000_0010, {"encoding": Encoding.MESSAGEPACK}),
        (0b0000_0100, {"expires_at": 0}),
        (0b0000_1000, {"names_inside": True}),
        (0b0001_0000, {"binding": Binding.COLLECTION}),
        (0b0010_0000, {"binding": Binding.NONE}),
    ],
    ids=["none", "extended-json", "messagepack", "expiry", "names-inside", "collection", "unbound"],
)
def test_flags(flags: int, fields: dict[str, Any]) -> None:
    """Each property of a record has its own bits."""
    assert flags == sample(**fields)[2]


@pytest.mark.parametrize("size", range(MIN_SIZE))
def test_truncated(size: int) -> None:
    """Anything shorter than an empty record is malformed, down to nothing."""
    with pytest.raises(MalformedRecordError, match=f"truncated: {size} bytes"):
        Header.parse(sample()[:size])


@pytest.mark.parametrize("missing", range(1, 9))
def test_truncated_with_expiry(missing: int) -> None:
    """A record whose expiry leaves no room for the tag is malformed."""
    with pytest.raises(MalformedRecordError, match="truncated"):
        Header.parse(sample(expires_at=1)[:-missing])


@pytest.mark.parametrize("expires_at", [None, 1])
@pytest.mark.parametrize("size", range(8))
def test_truncated_with_names_inside(size: int, expires_at: int | None) -> None:
    """A record that carries names has room for two empty ones beside its tag."""
    record = sample(names_inside=True, expires_at=expires_at)

    with pytest.raises(MalformedRecordError, match="truncated"):
        Header.parse(record + bytes(size))
    assert Header.parse(record + bytes(8)).names_inside


@pytest.mark.parametrize("version", [0, 2, 3, 128, 255])
def test_unknown_version(version: int) -> None:
    """Every format version but 1 is its own error."""
    with pytest.raises(UnknownRecordVersionError) as caught:
        Header.parse(patched(sample(), 0, version))

    assert UnknownRecordVersionError is type(caught.value)


@pytest.mark.parametrize("suite", [0, 2, 255])
def test_unknown_suite(suite: int) -> None:
    """Every suite but 1 is its own error."""
    with pytest.raises(UnknownSuiteError):
        Header.parse(patched(sample(), 1, suite))


@pytest.mark.parametrize("flags", range(256), ids="{:08b}".format)
def test_flags_are_known_or_refused(flags: int) -> None:
    """Of the 256 values of the flags exactly the 24 that mean something are read."""
    record = patched(sample(expires_at=1) + bytes(8), 2, flags)
    known = flags & 0b1100_0000 == 0 and flags & 0b11 <= 2 and flags >> 4 <= (0 if flags & 0b1000 else 2)

    if known:
        assert record[:32] == Header.parse(record).encode()[:32]
    else:
        with pytest.raises(UnknownFlagsError):
            Header.parse(record)


@pytest.mark.parametrize("byte", [1, 2, 255])
def test_reserved_byte(byte: int) -> None:
    """A reserved byte other than 0 is malformed."""
    with pytest.raises(MalformedRecordError, match="reserved"):
        Header.parse(patched(sample(), 3, byte))


def test_dek_zero() -> None:
    """DEK numbers start at 1."""
    with pytest.raises(MalformedRecordError, match="DEK 0"):
        Header.parse(sample(dek=0))


@pytest.mark.parametrize(
    ("expires_at", "encoded"),
    [
        pytest.param(None, "", id="none"),
        pytest.param(0, "0000000000000000", id="zero"),
        pytest.param(-1, "ffffffffffffffff", id="before-1970"),
        pytest.param(2**63 - 1, "7fffffffffffffff", id="last"),
        pytest.param(2**63, "7fffffffffffffff", id="beyond-the-last"),
        pytest.param(-(2**70), "8000000000000000", id="before-the-first"),
    ],
)
def test_expiry(expires_at: int | None, encoded: str) -> None:
    """An expiry is 8 signed bytes; one that does not fit is as good as the last that does."""
    assert encoded == encode_expiry(expires_at).hex()


def test_associated_data() -> None:
    """The AAD is label, vault id, header start, expiry, collection and key, in this order."""
    header = Header(258, bytes(24), expires_at=1)

    assert (
        b"kvseal/record/v1\x00"
        + VAULT_ID
        + bytes.fromhex("01010400 00000102 0000000000000001")
        + b"\x00\x00\x00\x02ab"
        + b"\x00\x00\x00\x02\xc3\xa4"
    ) == associated_data(VAULT_ID, header, "ab", "ä")


def test_associated_data_with_context() -> None:
    """A context joins the AAD at its end, with its length."""
    header = Header(1, bytes(24))
    plain = associated_data(VAULT_ID, header, "c", "k")

    assert plain + b"\x00\x00\x00\x01x" == associated_data(VAULT_ID, header, "c", "k", context="x")


@given(
    one=st.tuples(headers, any_text, any_text, any_text),
    other=st.tuples(headers, any_text, any_text, any_text),
)
def test_associated_data_is_injective(
    one: tuple[Header, str, str, str], other: tuple[Header, str, str, str]
) -> None:
    """Two records have the same AAD only if all that it is made of is the same."""
    parts = [
        (header.start(), header.expires_at, *bound_names(header.binding, collection, key), context)
        for header, collection, key, context in (one, other)
    ]
    encoded = [
        associated_data(VAULT_ID, header, collection, key, context=context)
        for header, collection, key, context in (one, other)
    ]

    assert (parts[0] == parts[1]) == (encoded[0] == encoded[1])


@given(left=any_text, right=any_text, cut=st.integers(0, 20))
def test_names_cannot_be_shifted_between_fields(left: str, right: str, cut: int) -> None:
    """Moving characters from one name to its neighbour changes the AAD, even where they read alike."""
    joined = left + right
    shifted = joined[:cut], joined[cut:]
    assume(shifted != (left, right))
    header = Header(1, bytes(24))

    assert associated_data(VAULT_ID, header, left, right) != associated_data(VAULT_ID, header, *shifted)
    assert associated_data(VAULT_ID, header, "c", left, context=right) != associated_data(
        VAULT_ID, header, "c", shifted[0], context=shifted[1]
    )


@given(one=any_text, other=any_text)
def test_name_field_is_injective(one: str, other: str) -> None:
    """Two names are encoded alike only if they are the same, lone surrogates and all."""
    assert (one == other) == (name_field(one) == name_field(other))


def test_no_context_is_no_field() -> None:
    """The empty context leaves no trace, so that a wrapper without one reads DESIGN's plain AAD."""
    assert b"" == context_field("")


@pytest.mark.parametrize(
    ("binding", "names"),
    [
        (Binding.COLLECTION_AND_KEY, ("c", "k")),
        (Binding.COLLECTION, ("c", "")),
        (Binding.NONE, ("", "")),
    ],
    ids=lambda value: value.name if isinstance(value, Binding) else "-",
)
def test_bound_names(binding: Binding, names: tuple[str, str]) -> None:
    """What a binding leaves out is empty."""
    assert names == bound_names(binding, "c", "k")

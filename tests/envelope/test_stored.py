"""The stored mapping: one spelling per record, and a name for everything else."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kvseal.envelope.stored import DATA_FIELD, VERSION_FIELD, from_stored, is_sealed, to_stored
from kvseal.errors import (
    LegacyRecordError,
    MalformedRecordError,
    PlaintextRecordError,
    RecordError,
    UnknownRecordVersionError,
)

BASE64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/="


@given(record=st.binary(max_size=100))
def test_from_stored_undoes_to_stored(record: bytes) -> None:
    """Record bytes come back from the mapping."""
    assert record == from_stored(to_stored(record))


def test_shape() -> None:
    """The mapping has upstream's two field names and version 2."""
    assert {"__encrypted_data__": "AAEC/w==", "__encryption_version__": 2} == to_stored(b"\x00\x01\x02\xff")


@given(text=st.text(BASE64, max_size=24) | st.text(BASE64 + "-_ \n\tä\x00\ud800", max_size=24))
@example(text="AB==")
@example(text="AAB=")
@example(text="AA")
@example(text="AAAA====")
@example(text="AA==AAAA")
@example(text="AAAA\n")
@example(text="")
def test_one_text_per_record(text: str) -> None:
    """Text that is read is exactly the text that would be written."""
    try:
        record = from_stored({DATA_FIELD: text, VERSION_FIELD: 2})
    except MalformedRecordError:
        return

    assert to_stored(record)[DATA_FIELD] == text


@pytest.mark.parametrize("text", ["AB==", "AAB=", "AAEC/x=="])
def test_unused_bits_of_base64(text: str) -> None:
    """Base64 whose last character carries other bits than zeros is not canonical."""
    with pytest.raises(MalformedRecordError, match="not canonical"):
        from_stored({DATA_FIELD: text, VERSION_FIELD: 2})


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("AAEC/w", id="no-padding"),
        pytest.param("AAEC_w==", id="url-safe"),
        pytest.param("AAEC\n/w==", id="line-break"),
        pytest.param(" AAEC/w==", id="space"),
        pytest.param("AAEC/w==\n", id="final-line-break"),
        pytest.param("AAEC/w===", id="more-padding"),
        pytest.param("A", id="one-character"),
        pytest.param("Ä===", id="not-ascii"),
        pytest.param("\ud800", id="surrogate"),
        pytest.param("\x00", id="nul"),
    ],
)
def test_not_base64(text: str) -> None:
    """Every other spelling of base64 is malformed."""
    with pytest.raises(MalformedRecordError):
        from_stored({DATA_FIELD: text, VERSION_FIELD: 2})


@pytest.mark.parametrize(
    ("stored", "error"),
    [
        pytest.param({}, PlaintextRecordError, id="empty"),
        pytest.param({"name": "Ada"}, PlaintextRecordError, id="plaintext"),
        pytest.param({DATA_FIELD: "AAAA"}, MalformedRecordError, id="no-version"),
        pytest.param({VERSION_FIELD: 2}, MalformedRecordError, id="no-data"),
        pytest.param({DATA_FIELD: "AAAA", VERSION_FIELD: 1}, LegacyRecordError, id="version-1"),
        pytest.param({DATA_FIELD: "AAAA", VERSION_FIELD: 0}, UnknownRecordVersionError, id="version-0"),
        pytest.param({DATA_FIELD: "AAAA", VERSION_FIELD: 3}, UnknownRecordVersionError, id="version-3"),
        pytest.param(
            {DATA_FIELD: "AAAA", VERSION_FIELD: -2}, UnknownRecordVersionError, id="version-minus-2"
        ),
        pytest.param({DATA_FIELD: "AAAA", VERSION_FIELD: True}, MalformedRecordError, id="version-true"),
        pytest.param({DATA_FIELD: "AAAA", VERSION_FIELD: 2.0}, MalformedRecordError, id="version-2.0"),
        pytest.param({DATA_FIELD: "AAAA", VERSION_FIELD: "2"}, MalformedRecordError, id="version-text"),
        pytest.param({DATA_FIELD: "AAAA", VERSION_FIELD: None}, MalformedRecordError, id="version-null"),
        pytest.param({DATA_FIELD: "AAAA", VERSION_FIELD: [2]}, MalformedRecordError, id="version-list"),
        pytest.param({DATA_FIELD: b"AAAA", VERSION_FIELD: 2}, MalformedRecordError, id="data-bytes"),
        pytest.param({DATA_FIELD: None, VERSION_FIELD: 2}, MalformedRecordError, id="data-null"),
        pytest.param({DATA_FIELD: {}, VERSION_FIELD: 2}, MalformedRecordError, id="data-object"),
        pytest.param({DATA_FIELD: "AAAA", VERSION_FIELD: 2, "x": 1}, MalformedRecordError, id="third-field"),
    ],
)
def test_what_is_no_record(stored: dict[str, Any], error: type[RecordError]) -> None:
    """Everything that is not exactly the two fields has its own error, and never a subclass of it."""
    with pytest.raises(error) as caught:
        from_stored(stored)

    assert error is type(caught.value)


@pytest.mark.parametrize(
    ("stored", "sealed"),
    [
        ({DATA_FIELD: "AAAA", VERSION_FIELD: 2}, True),
        ({DATA_FIELD: None, VERSION_FIELD: 2, "x": 1}, True),
        ({DATA_FIELD: "AAAA", VERSION_FIELD: 1}, False),
        ({DATA_FIELD: "AAAA"}, False),
        ({VERSION_FIELD: 2}, False),
        ({}, False),
    ],
    ids=["record", "damaged", "legacy", "no-version", "no-data", "plaintext"],
)
def test_is_sealed(stored: dict[str, Any], sealed: bool) -> None:
    """A mapping with both fields and version 2 claims to be a record, readable or not."""
    assert sealed == is_sealed(stored)

"""Argon2id and HKDF: the standards' vectors, a second implementation, and the bounds."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from hypothesis import given
from hypothesis import strategies as st

from kvseal import Argon2idParams
from kvseal.envelope import kdf
from kvseal.envelope.kdf import DEFAULT_MEMORY_CEILING, argon2id, hkdf
from kvseal.errors import KDFParametersError

SALT = bytes(range(16))


def test_reference_implementation_knows_rfc_9106() -> None:
    """The Argon2id of cryptography, to which kvseal's is compared below, gives the vector of RFC 9106, section 5.3."""
    tag = Argon2id(
        salt=b"\x02" * 16,
        length=32,
        iterations=3,
        lanes=4,
        memory_cost=32,
        secret=b"\x03" * 8,
        ad=b"\x04" * 12,
    ).derive(b"\x01" * 32)

    assert "0d640df58d78766c08c037a34a8b53c9d01ef0452d75b65eb52520e96b01e659" == tag.hex()


@given(
    secret=st.binary(max_size=100),
    salt=st.binary(min_size=16, max_size=16),
    time_cost=st.integers(1, 3),
    parallelism=st.integers(1, 4),
    blocks=st.integers(8, 20),
)
def test_argon2id_is_what_another_implementation_computes(
    secret: bytes, salt: bytes, time_cost: int, parallelism: int, blocks: int
) -> None:
    """Every output equals that of OpenSSL, which shares no code with argon2-cffi."""
    params = Argon2idParams(time_cost, blocks * parallelism, parallelism)
    reference = Argon2id(
        salt=salt, length=32, iterations=time_cost, lanes=parallelism, memory_cost=params.memory_cost
    )

    assert reference.derive(secret) == argon2id(secret, salt, params)


@pytest.mark.parametrize(
    ("cost", "name"),
    [
        pytest.param((0, 8, 1), "time cost", id="no-pass"),
        pytest.param((65, 8, 1), "time cost", id="too-many-passes"),
        pytest.param((-1, 8, 1), "time cost", id="negative"),
        pytest.param((True, 8, 1), "time cost", id="a-boolean-for-t"),
        pytest.param((1.0, 8, 1), "time cost", id="a-float-for-t"),
        pytest.param(("1", 8, 1), "time cost", id="text-for-t"),
        pytest.param((1, 8, 0), "parallelism", id="no-lane"),
        pytest.param((1, 1024, 65), "parallelism", id="too-many-lanes"),
        pytest.param((1, 1024, None), "parallelism", id="none-for-p"),
        pytest.param((1, 7, 1), "memory cost", id="too-little-memory"),
        pytest.param((1, 31, 4), "memory cost", id="too-little-memory-for-4-lanes"),
        pytest.param((1, 2**32, 1), "memory cost", id="more-than-32-bits"),
        pytest.param((1, 8.0, 1), "memory cost", id="a-float-for-m"),
    ],
)
def test_parameters_out_of_bounds_cannot_be_built(cost: tuple[Any, Any, Any], name: str) -> None:
    """Parameters outside their bounds raise `KDFParametersError` that names the one at fault."""
    with pytest.raises(KDFParametersError, match=name):
        Argon2idParams(*cost)


@pytest.mark.parametrize(
    "cost", [(1, 8, 1), (64, 8, 1), (1, 512, 64), (1, 2**32 - 1, 1)], ids=["least", "t", "p", "m"]
)
def test_parameters_at_their_bounds_can_be_built(cost: tuple[int, int, int]) -> None:
    """The bounds themselves are inside."""
    params = Argon2idParams(*cost)

    assert cost == (params.time_cost, params.memory_cost, params.parallelism)


@pytest.mark.parametrize(
    ("salt", "memory", "ceiling"),
    [
        pytest.param(b"", 8, DEFAULT_MEMORY_CEILING, id="no-salt"),
        pytest.param(SALT[:15], 8, DEFAULT_MEMORY_CEILING, id="short-salt"),
        pytest.param(SALT + b"x", 8, DEFAULT_MEMORY_CEILING, id="long-salt"),
        pytest.param(SALT, DEFAULT_MEMORY_CEILING + 1, DEFAULT_MEMORY_CEILING, id="above-4-GiB"),
        pytest.param(SALT, 2**32 - 1, DEFAULT_MEMORY_CEILING, id="4-TiB"),
        pytest.param(SALT, 9, 8, id="above-a-lower-ceiling"),
    ],
)
def test_refused_before_anything_is_allocated(
    monkeypatch: pytest.MonkeyPatch, salt: bytes, memory: int, ceiling: int
) -> None:
    """A wrong salt or too much memory raises before Argon2 is called at all."""
    called: list[object] = []
    monkeypatch.setattr(kdf, "hash_secret_raw", lambda *args, **_: called.append(args))

    with pytest.raises(KDFParametersError):
        argon2id(b"secret", salt, Argon2idParams(1, memory, 1), memory_ceiling=ceiling)

    assert [] == called


def test_ceiling_itself_is_allowed() -> None:
    """A memory cost of exactly the ceiling is derived."""
    params = Argon2idParams(1, 8, 1)

    assert argon2id(b"secret", SALT, params) == argon2id(b"secret", SALT, params, memory_ceiling=8)


def test_default_ceiling_is_4_gib() -> None:
    """The default ceiling, in KiB, is 4 GiB, as DESIGN promises."""
    assert 4 * 2**30 == DEFAULT_MEMORY_CEILING * 1024


def test_parameters_are_authenticated_as_12_bytes() -> None:
    """What a keyslot authenticates is t, m and p, each in 4 bytes."""
    assert bytes.fromhex("000000020000010000000003") == Argon2idParams(2, 256, 3).encode()


@pytest.mark.parametrize(
    ("params", "cost"),
    [
        pytest.param(Argon2idParams.RFC_9106_HIGH_MEMORY, (1, 2**21, 4), id="first"),
        pytest.param(Argon2idParams.RFC_9106_LOW_MEMORY, (3, 2**16, 4), id="second"),
    ],
)
def test_recommended_options(params: Argon2idParams, cost: tuple[int, int, int]) -> None:
    """The named parameters are those of RFC 9106, section 4."""
    assert cost == (params.time_cost, params.memory_cost, params.parallelism)


@pytest.mark.parametrize(
    ("prk", "info", "okm"),
    [
        pytest.param(
            "077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5",
            "f0f1f2f3f4f5f6f7f8f9",
            "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
            id="A.1",
        ),
        pytest.param(
            "06a6b88c5853361a06104c9ceb35b45cef760014904671014a193f40c15fc244",
            "b0b1b2b3b4b5b6b7b8b9babbbcbdbebfc0c1c2c3c4c5c6c7c8c9cacbcccdcecf"
            "d0d1d2d3d4d5d6d7d8d9dadbdcdddedfe0e1e2e3e4e5e6e7e8e9eaebecedeeef"
            "f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff",
            "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c"
            "59045a99cac7827271cb41c65e590e09da3275600c2f09b8367793a9aca3db71"
            "cc30c58179ec3e87c14c01d5c1f3434f1d87",
            id="A.2",
        ),
        pytest.param(
            "19ef24a32c717b167f33a91d6f648bdf96596776afdb6377ac434c1c293ccb04",
            "",
            "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
            id="A.3",
        ),
    ],
)
def test_hkdf_expands_as_rfc_5869(prk: str, info: str, okm: str) -> None:
    """The expand step gives the OKM of RFC 5869, appendix A, from its PRK."""
    assert okm == hkdf(bytes.fromhex(prk), bytes.fromhex(info), len(okm) // 2).hex()

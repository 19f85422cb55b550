"""The contract's assertions explain themselves, as if they stood in a test module."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("tests.drivers.contract")

"""Documents as a MongoDBStore writes them, and as nothing else would."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

MOMENT = datetime(2026, 5, 1, tzinfo=timezone.utc)


def document(key: str = "key", **fields: Any) -> dict[str, Any]:
    """Return a document as the store writes it."""
    return {
        "key": key,
        "collection": "coll",
        "created_at": MOMENT,
        "version": 1,
        "value": {"object": {"n": 1}},
        **fields,
    }

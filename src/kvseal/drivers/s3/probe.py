"""
Whether a server keeps the conditions of a write: asked before the first write, because many do not.

Such a server accepts every write, so the updates of other writers would be lost without a sign.  It is asked
with an object of its own, `kvseal-probe`, which no store can have written, as its key has no slash.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kvseal.errors import UnsupportedStoreError

if TYPE_CHECKING:
    from kvseal.drivers.s3.bucket import Bucket

PROBE: Final = "kvseal-probe"
_TEXT: Final = (
    b"kvseal writes this object to find out whether the server honours If-Match and If-None-Match.\n"
)
_OTHER: Final = '"00000000000000000000000000000000"'
_REFUSED: Final = frozenset({"412", "PreconditionFailed", "409", "ConditionalRequestConflict"})
_UNKNOWN: Final = frozenset({"501", "NotImplemented"})


def refuse_careless(bucket: Bucket) -> None:
    """
    Raise `UnsupportedStoreError` if the server ignores a condition; the object stays where it is.

    A new bucket takes five requests, later calls four.
    """
    expected = _REFUSED | _UNKNOWN
    given = {"Key": PROBE, "Body": _TEXT, "ContentType": "text/plain"}
    first = bucket.ask("put_object", expects=expected, IfNoneMatch="*", **given)
    again = first if first.code else bucket.ask("put_object", expects=expected, IfNoneMatch="*", **given)
    asked = {
        "If-None-Match of a put": again.code,
        "If-Match of a put": bucket.ask("put_object", expects=expected, IfMatch=_OTHER, **given).code,
        "If-Match of a delete": bucket.ask("delete_object", expects=expected, Key=PROBE, IfMatch=_OTHER).code,
    }
    ignored = [what for what, code in asked.items() if code not in _REFUSED]
    if ignored:
        what = " and ".join(ignored)
        msg = f"{bucket.location}: the server ignores {what}, so concurrent writes would be lost"
        raise UnsupportedStoreError(
            msg, hint="use Amazon S3 or a server that has conditional writes; see docs/operations.md"
        )

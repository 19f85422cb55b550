"""Migration, re-encryption, rollback and proof: the operations that walk a whole store."""

import typing

from kvseal import lazy

if typing.TYPE_CHECKING:
    from kvseal.observe.events import Event, Failure, Listener, Progress
    from kvseal.recoding.authsome import Takeover, take_over_authsome
    from kvseal.recoding.census import verify
    from kvseal.recoding.engine import is_prepared, recode
    from kvseal.recoding.formats import SealedTarget
    from kvseal.recoding.migration import Migration, import_keys, migrate, prepare
    from kvseal.recoding.plan import PlaintextRule, Plan, plan_migration, plan_reencryption, plan_rollback
    from kvseal.recoding.progress.checkpoint import Checkpoint, open_recode
    from kvseal.recoding.report import Report
    from kvseal.recoding.retirement import Retirement, retire
    from kvseal.recoding.surveying import Survey, survey
else:
    __getattr__, __dir__ = lazy.names(
        __name__,
        {
            "kvseal.observe.events": (
                "Event",
                "Failure",
                "Listener",
                "Progress",
            ),
            ".authsome": (
                "Takeover",
                "take_over_authsome",
            ),
            ".census": ("verify",),
            ".progress.checkpoint": (
                "Checkpoint",
                "open_recode",
            ),
            ".engine": (
                "is_prepared",
                "recode",
            ),
            ".formats": ("SealedTarget",),
            ".migration": (
                "Migration",
                "import_keys",
                "migrate",
                "prepare",
            ),
            ".plan": (
                "PlaintextRule",
                "Plan",
                "plan_migration",
                "plan_reencryption",
                "plan_rollback",
            ),
            ".report": ("Report",),
            ".retirement": (
                "Retirement",
                "retire",
            ),
            ".surveying": (
                "Survey",
                "survey",
            ),
        },
    )

__all__ = [
    "Checkpoint",
    "Event",
    "Failure",
    "Listener",
    "Migration",
    "PlaintextRule",
    "Plan",
    "Progress",
    "Report",
    "Retirement",
    "SealedTarget",
    "Survey",
    "Takeover",
    "import_keys",
    "is_prepared",
    "migrate",
    "open_recode",
    "plan_migration",
    "plan_reencryption",
    "plan_rollback",
    "prepare",
    "recode",
    "retire",
    "survey",
    "take_over_authsome",
    "verify",
]

"""Migration, re-encryption, rollback and proof: everything that walks a whole store."""

from kvseal.recode.engine import recode
from kvseal.recode.events import Event, Failure, Listener, Progress
from kvseal.recode.plan import PlaintextRule, Plan, legacy_sources, migration, reencryption
from kvseal.recode.report import Report
from kvseal.recode.survey import Survey, survey
from kvseal.recode.verify import verify

__all__ = [
    "Event",
    "Failure",
    "Listener",
    "PlaintextRule",
    "Plan",
    "Progress",
    "Report",
    "Survey",
    "migration",
    "recode",
    "reencryption",
    "survey",
    "verify",
]

"""Migration, re-encryption, rollback and proof: everything that walks a whole store."""

from kvseal.recode.codecs import SealedTarget
from kvseal.recode.engine import recode
from kvseal.recode.events import Event, Failure, Listener, Progress
from kvseal.recode.migrate import Migration, migrate
from kvseal.recode.plan import PlaintextRule, Plan, migration, reencryption
from kvseal.recode.report import Report
from kvseal.recode.survey import Survey, survey
from kvseal.recode.verify import verify

__all__ = [
    "Event",
    "Failure",
    "Listener",
    "Migration",
    "PlaintextRule",
    "Plan",
    "Progress",
    "Report",
    "SealedTarget",
    "Survey",
    "migrate",
    "migration",
    "recode",
    "reencryption",
    "survey",
    "verify",
]

"""Migration, re-encryption, rollback and proof: everything that walks a whole store."""

from kvseal.events import Event, Failure, Listener, Progress
from kvseal.recode.checkpoint import Checkpoint, open_recode
from kvseal.recode.codecs import SealedTarget
from kvseal.recode.engine import is_prepared, recode
from kvseal.recode.migrate import Migration, import_keys, migrate, prepare
from kvseal.recode.plan import PlaintextRule, Plan, migration, reencryption, rollback
from kvseal.recode.report import Report
from kvseal.recode.retire import Retirement, retire
from kvseal.recode.survey import Survey, survey
from kvseal.recode.takeover import Takeover, take_over_authsome
from kvseal.recode.verify import verify

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
    "migration",
    "open_recode",
    "prepare",
    "recode",
    "reencryption",
    "retire",
    "rollback",
    "survey",
    "take_over_authsome",
    "verify",
]

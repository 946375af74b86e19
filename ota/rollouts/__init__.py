"""Rollouts: what would happen, starting it, how it goes on by itself, and what operators do to it."""

from ota.rollouts import consistency, standstill
from ota.rollouts.changes import LABELS
from ota.rollouts.cloning import clone, options_of, rest_of
from ota.rollouts.course import (
    Standing,
    advance,
    cancel_tasks,
    finish,
    nothing_proven,
    standings,
    stop,
)
from ota.rollouts.joining import Held, held_back, join
from ota.rollouts.launching import NothingToUpgrade, PlanChanged, launch, missing_author
from ota.rollouts.options import FIELDS, InvalidPolicy, Options
from ota.rollouts.planning import (
    Excluded,
    Plan,
    PlannedTarget,
    PlannedTask,
    PlannedWave,
    plan,
    usual_policy,
)
from ota.rollouts.verbs import (
    NotPossible,
    approve,
    cancel,
    canceled_in_words,
    change,
    close,
    deny,
    dismiss,
    open_next_wave,
    pause,
    resume,
    retry,
)

__all__ = [
    "FIELDS",
    "LABELS",
    "Excluded",
    "Held",
    "InvalidPolicy",
    "NotPossible",
    "NothingToUpgrade",
    "Options",
    "Plan",
    "PlanChanged",
    "PlannedTarget",
    "PlannedTask",
    "PlannedWave",
    "Standing",
    "advance",
    "approve",
    "cancel",
    "cancel_tasks",
    "canceled_in_words",
    "change",
    "clone",
    "close",
    "consistency",
    "deny",
    "dismiss",
    "finish",
    "held_back",
    "join",
    "launch",
    "missing_author",
    "nothing_proven",
    "open_next_wave",
    "options_of",
    "pause",
    "plan",
    "rest_of",
    "resume",
    "retry",
    "standings",
    "standstill",
    "stop",
    "usual_policy",
]

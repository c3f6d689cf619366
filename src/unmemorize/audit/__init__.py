"""Attacks that try to bring an image back after an edit, and what may be said after them."""

from unmemorize.audit._arms import (
    AuditInputs,
    Twin,
    edit_text,
    hash_of_images,
    refuse_unfit,
)
from unmemorize.audit._attack import (
    ATTACKS,
    FORWARD_AND_BACKWARD,
    IMAGELESS_SUFFIX,
    STARTS,
    Attack,
    AttackSettings,
    Candidate,
    Start,
    State,
    Target,
    Trial,
    checkpoints,
    make_attacks,
)
from unmemorize.audit._audit import audit_all
from unmemorize.audit._bench import Bench
from unmemorize.audit._drawing import drawn
from unmemorize.audit._forecast import AuditForecast, forecast_audit, forecast_images
from unmemorize.audit._image_first import RESULT as IMAGES_RESULT
from unmemorize.audit._image_first import (
    ImageAuditResult,
    ImageFinding,
    audit_images_all,
    image_audit_totals,
    open_image_audit,
    read_image_scores,
    refuse_unfit_images,
)
from unmemorize.audit._latents import latent_of
from unmemorize.audit._levels import ranks_in_words
from unmemorize.audit._measures import ImageScores
from unmemorize.audit._public import audit_edit, audit_images, open_audit
from unmemorize.audit._reach import reach_in_words
from unmemorize.audit._result import RESULT, AttackOutcome, AuditResult, ImageOutcome
from unmemorize.audit._settings import ARMS, COPY, AuditRun, AuditSettings, ImageAuditRun
from unmemorize.audit._targets import companions_of, distinct_controls, targets_of
from unmemorize.audit._task import similarity
from unmemorize.audit._totals import audit_totals
from unmemorize.audit._verdicts import BudgetVerdict

__all__ = [
    "ARMS",
    "ATTACKS",
    "COPY",
    "FORWARD_AND_BACKWARD",
    "IMAGELESS_SUFFIX",
    "IMAGES_RESULT",
    "RESULT",
    "STARTS",
    "Attack",
    "AttackOutcome",
    "AttackSettings",
    "AuditForecast",
    "AuditInputs",
    "AuditResult",
    "AuditRun",
    "AuditSettings",
    "Bench",
    "BudgetVerdict",
    "Candidate",
    "ImageAuditResult",
    "ImageAuditRun",
    "ImageFinding",
    "ImageOutcome",
    "ImageScores",
    "Start",
    "State",
    "Target",
    "Trial",
    "Twin",
    "audit_all",
    "audit_edit",
    "audit_images",
    "audit_images_all",
    "audit_totals",
    "checkpoints",
    "companions_of",
    "distinct_controls",
    "drawn",
    "edit_text",
    "forecast_audit",
    "forecast_images",
    "hash_of_images",
    "image_audit_totals",
    "latent_of",
    "make_attacks",
    "open_audit",
    "open_image_audit",
    "ranks_in_words",
    "reach_in_words",
    "read_image_scores",
    "refuse_unfit",
    "refuse_unfit_images",
    "similarity",
    "targets_of",
]

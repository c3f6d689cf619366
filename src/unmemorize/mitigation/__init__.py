"""The search for one edit under which no prompt copies, and the certificates that show it."""

from unmemorize.mitigation._certificate import Certification, Copies, Verdict, percent_up, pooled
from unmemorize.mitigation._confirmation import (
    BEFORE,
    FEWEST_COPIES,
    Confirmation,
    ConfirmationRecord,
    confirm,
    confirmation_chance,
    confirmed_by,
    read_confirmations,
    refuse_no_suspects,
    refuse_repeated_suspects,
    warn_of_few_captions,
)
from unmemorize.mitigation._control import control_edit
from unmemorize.mitigation._copy_test import CopyTest, Measure, Null
from unmemorize.mitigation._forecast import Forecast, forecast, seconds_per_sample
from unmemorize.mitigation._images import ImagesRecord, read_image_records
from unmemorize.mitigation._mitigate import mitigate_all
from unmemorize.mitigation._ordinary import (
    CHANGED,
    OrdinaryChange,
    OrdinaryImages,
    OrdinaryTask,
    ordinary_change,
    ordinary_items,
    packed,
    read_ordinary,
    unpacked,
)
from unmemorize.mitigation._own_captions import without_own
from unmemorize.mitigation._public import mitigate, with_references
from unmemorize.mitigation._result import EDIT, RESULT, MitigationResult, PromptOutcome
from unmemorize.mitigation._run_settings import MitigationInputs, MitigationRun, OrdinaryCaptions
from unmemorize.mitigation._seeds import derived_seed
from unmemorize.mitigation._settings import MitigationSettings, Part
from unmemorize.mitigation._stages import SAME, Announce, Stages, announced_by, digest, unannounced
from unmemorize.mitigation._standing import Standing, standings
from unmemorize.mitigation._trained import refuse_other_part

__all__ = [
    "BEFORE",
    "CHANGED",
    "EDIT",
    "FEWEST_COPIES",
    "RESULT",
    "SAME",
    "Announce",
    "Certification",
    "Confirmation",
    "ConfirmationRecord",
    "Copies",
    "CopyTest",
    "Forecast",
    "ImagesRecord",
    "Measure",
    "MitigationInputs",
    "MitigationResult",
    "MitigationRun",
    "MitigationSettings",
    "Null",
    "OrdinaryCaptions",
    "OrdinaryChange",
    "OrdinaryImages",
    "OrdinaryTask",
    "Part",
    "PromptOutcome",
    "Stages",
    "Standing",
    "Verdict",
    "announced_by",
    "confirm",
    "confirmation_chance",
    "confirmed_by",
    "control_edit",
    "derived_seed",
    "digest",
    "forecast",
    "mitigate",
    "mitigate_all",
    "ordinary_change",
    "ordinary_items",
    "packed",
    "percent_up",
    "pooled",
    "read_confirmations",
    "read_image_records",
    "read_ordinary",
    "refuse_no_suspects",
    "refuse_other_part",
    "refuse_repeated_suspects",
    "seconds_per_sample",
    "standings",
    "unannounced",
    "unpacked",
    "warn_of_few_captions",
    "with_references",
    "without_own",
]

"""Methods of the field against copies: each makes an edit or an intervention for a prompt."""

from unmemorize.methods._fine_tuning import (
    LATENTS,
    fine_tuned_denoiser,
    fine_tuning_cost,
    why_not_fine_tuned,
)
from unmemorize.methods._fine_tuning import STEPS as FINE_TUNING_STEPS
from unmemorize.methods._generate_fitted import generate_fitted
from unmemorize.methods._method import (
    MITIGATIONS,
    Mitigation,
    Suspect,
    WhileDrawing,
    at_strength,
    intervention_from_json,
    method_of,
    refinement_of,
)
from unmemorize.methods._text_encoder import STEPS as TEXT_ENCODER_STEPS
from unmemorize.methods._text_encoder import (
    seconds_of_training,
    text_encoder_layers,
    trained_text_encoder,
    why_untrainable,
)
from unmemorize.methods._trained import (
    LowRankWeights,
    Trained,
    WholeWeights,
    optimizer_of,
    refusing_divergence,
    saved,
)
from unmemorize.methods._training import Training, training, weighted_layers
from unmemorize.methods._unfinished import StepsDone, steps_done

__all__ = [
    "FINE_TUNING_STEPS",
    "LATENTS",
    "MITIGATIONS",
    "TEXT_ENCODER_STEPS",
    "LowRankWeights",
    "Mitigation",
    "StepsDone",
    "Suspect",
    "Trained",
    "Training",
    "WhileDrawing",
    "WholeWeights",
    "at_strength",
    "fine_tuned_denoiser",
    "fine_tuning_cost",
    "generate_fitted",
    "intervention_from_json",
    "method_of",
    "optimizer_of",
    "refinement_of",
    "refusing_divergence",
    "saved",
    "seconds_of_training",
    "steps_done",
    "text_encoder_layers",
    "trained_text_encoder",
    "training",
    "weighted_layers",
    "why_not_fine_tuned",
    "why_untrainable",
]

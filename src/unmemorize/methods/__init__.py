"""Methods of the field against copies: each makes an edit or an intervention for a prompt."""

from unmemorize.methods._method import (
    MITIGATIONS,
    Mitigation,
    Suspect,
    WhileDrawing,
    at_strength,
    intervention_from_json,
    method_of,
)

__all__ = [
    "MITIGATIONS",
    "Mitigation",
    "Suspect",
    "WhileDrawing",
    "at_strength",
    "intervention_from_json",
    "method_of",
]

"""Records written by hand."""

from __future__ import annotations

from typing import Any

from unmemorize import Detection, Localization, Neurons
from unmemorize.localization._records import Trial

HOSTILE = "<script>alert('x')</script> & \"quotes\" </title><img src=http://x/y onerror=alert(1)>"
LAYER = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_v"


def localization(prompt: str, group: str, score: float, neurons: Neurons | None) -> Localization:
    detection = Detection(
        prompt=prompt,
        group=group,
        score=score,
        mean=score,
        tau=0.4,
        memorized_seeds=(0, 1) if neurons else (),
        seeds=10,
        evaluations=10,
        seconds=0.1,
    )
    common: dict[str, Any] = {
        "prompt": prompt,
        "group": group,
        "detection": detection,
        "criterion": "seeds",
        "protocol": "upstream",
        "kernel": 3,
        "evaluations": 10,
        "work": 9.5,
        "seconds": 2.0,
    }
    if neurons is None:
        return Localization(**common)
    z_scores = {path: tuple(7.0 for _ in indices) for path, indices in neurons.layers.items()}
    return Localization(
        **common,
        initial=neurons,
        neurons=neurons,
        initial_score=0.2,
        score=0.25,
        threshold=0.3,
        theta=5.0,
        top_k=0,
        theta_exhausted=False,
        z_scores=z_scores,
        trials={
            "selection": (Trial(len(neurons), 0.2, True),),
            "refinement": (Trial(1, 0.5, False), Trial(2, 0.25, True)),
        },
    )

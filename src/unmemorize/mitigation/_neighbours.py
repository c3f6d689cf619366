"""The ordinary caption that a memorized one may be read like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from unmemorize.detection import Threshold
from unmemorize.mitigation._confirmation import Confirmation
from unmemorize.mitigation._guides import MOST_DRAWN, Guides, cleared, farthest
from unmemorize.mitigation._stages import Stages
from unmemorize.pipelines import Model

NEIGHBOURS = "neighbours"
"""The records of what the detector says of neighbours."""
DRAWN_NEIGHBOURS = "neighbour"
"""How the records of their images begin."""
_FAR = 4.0
"""How far a neighbour should be from a copy. There are many, so it can be farther than a start."""
_EXACT = "donot_use_mm_for_euclid_dist"


def find_neighbours(
    stages: Stages,
    texts: Mapping[int, str],
    confirmations: Mapping[int, Confirmation],
    captions: Sequence[str],
    threshold: Threshold,
) -> dict[int, Guides]:
    """Find the ordinary caption of each memorized prompt that may be drawn in its place.

    It is the nearest one that the screen clears and that is far from a copy, of `MOST_DRAWN`. If
    none is that far, it is the farthest one.

    Records are numbered by the places of captions, so they stay what they are if distances round
    otherwise, as on another device.

    Args:
        stages: what all stages share.
        texts: the memorized prompts by index.
        confirmations: tell their copies.
        captions: ordinary captions, which an edit leaves as they are.
        threshold: of the model.
    """
    memorized = set(texts.values())
    others = [caption for caption in dict.fromkeys(captions) if caption not in memorized]
    places = {caption: place for place, caption in enumerate(others)}
    nearest = nearest_captions(
        stages.model, list(texts.values()), others, stages.settings.generation.batch
    )
    ranked = dict(zip(texts, nearest, strict=True))
    owned = {
        len(others) * index + places[caption]: (index, caption)
        for index, captions_near in ranked.items()
        for caption in captions_near
    }
    clear = cleared(stages, NEIGHBOURS, owned, threshold)
    clear = {index: sorted(found, key=ranked[index].index) for index, found in clear.items()}
    tests = {index: confirmations[index].test for index in texts}
    found = farthest(stages, DRAWN_NEIGHBOURS, clear, tests, _FAR)
    return {index: {"neighbour": drawn.text} for index, drawn in found.items()}


def nearest_captions(
    model: Model, texts: Sequence[str], captions: Sequence[str], batch: int
) -> list[list[str]]:
    """Return the `MOST_DRAWN` captions whose encodings are nearest to each text's, nearest first.

    Distances are Euclidean, over all tokens.
    """
    own = _encoded(model, texts, batch)
    parts = [
        torch.cdist(
            own, _encoded(model, captions[start : start + batch], batch), compute_mode=_EXACT
        )
        for start in range(0, len(captions), batch)
    ]
    if not parts:
        return [[] for _ in texts]
    count = min(MOST_DRAWN, len(captions))
    order = torch.cat(parts, 1).topk(count, largest=False).indices
    return [[captions[place] for place in places] for places in order.tolist()]


def _encoded(model: Model, texts: Sequence[str], batch: int) -> Tensor:
    """Return encodings, (texts, tokens * features), float32, on the CPU."""
    starts = range(0, len(texts), batch)
    parts = [model.encode(texts[start : start + batch]).text.flatten(1) for start in starts]
    return torch.cat([part.float().cpu() for part in parts])

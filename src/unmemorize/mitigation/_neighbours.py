"""The ordinary caption that a memorized one may be encoded like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from unmemorize.detection import Threshold
from unmemorize.mitigation._confirmation import Confirmation
from unmemorize.mitigation._guides import Guides, cleared, drawn_clean
from unmemorize.mitigation._stages import Stages
from unmemorize.pipelines import Model

NEIGHBOURS = "neighbours"
"""The records of what the detector says of neighbours."""
DRAWN_NEIGHBOURS = "neighbour"
"""How the records of their images begin."""
_EXACT = "donot_use_mm_for_euclid_dist"
CONSIDERED = 4
"""How many captions are looked at for each prompt, the nearest ones."""


def find_neighbours(
    stages: Stages,
    texts: Mapping[int, str],
    confirmations: Mapping[int, Confirmation],
    captions: Sequence[str],
    threshold: Threshold,
) -> dict[int, Guides]:
    """Find the nearest ordinary caption that the screen clears and none of whose images is a copy.

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
    found = drawn_clean(stages, DRAWN_NEIGHBOURS, clear, tests)
    return {index: {"neighbour": left[0]} for index, left in found.items() if left}


def nearest_captions(
    model: Model, texts: Sequence[str], captions: Sequence[str], batch: int
) -> list[list[str]]:
    """Return the captions whose encodings are nearest to that of each text, the nearest first.

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
    count = min(CONSIDERED, len(captions))
    order = torch.cat(parts, 1).topk(count, largest=False).indices
    return [[captions[place] for place in places] for places in order.tolist()]


def _encoded(model: Model, texts: Sequence[str], batch: int) -> Tensor:
    """Return encodings, (texts, tokens * features), float32, on the CPU."""
    starts = range(0, len(texts), batch)
    parts = [model.encode(texts[start : start + batch]).text.flatten(1) for start in starts]
    return torch.cat([part.float().cpu() for part in parts])

"""Ordinary captions that memorized ones may be encoded like."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from architectures import make
from known_stages import Known
from unmemorize import Model, Threshold, testbed
from unmemorize.mitigation import _neighbours
from unmemorize.mitigation._confirmation import screen_level
from unmemorize.mitigation._copy_test import CopyTest
from unmemorize.mitigation._neighbours import find_neighbours, nearest_captions

CAPTIONS = ("a boat", "two red cats", "a red house by a lake", "one", "a tree", "the red cat")


def test_the_nearest_captions_against_numpy() -> None:
    model, texts = Model(make("Stable Diffusion")), ["a red cat", "a house"]
    own, others = (
        np.stack([model.encode([text]).text.flatten().numpy() for text in each])
        for each in (texts, CAPTIONS)
    )
    distances = ((own[:, None] - others[None]) ** 2).sum(-1)
    wanted = [[CAPTIONS[place] for place in np.argsort(row)[:4]] for row in distances]
    assert nearest_captions(model, texts, CAPTIONS, batch=4) == wanted
    assert nearest_captions(model, texts, CAPTIONS[:2], batch=4) == [
        sorted(CAPTIONS[:2], key=lambda caption: row[CAPTIONS.index(caption)]) for row in distances
    ]
    assert nearest_captions(model, texts, [], batch=4) == [[], []]


def test_the_first_one_that_is_clear_and_draws_no_copy_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    near = {"p": ["a", "b", "c", "d"], "q": ["b", "a", "c", "d"], "r": ["a", "a", "a", "a"]}
    asked: list[tuple[str, ...]] = []

    def nearest(_model: Any, texts: list[str], captions: list[str], _batch: int) -> list[list[str]]:
        asked.append(tuple(captions))
        return [near[text] for text in texts]

    monkeypatch.setattr(_neighbours, "nearest_captions", nearest)
    threshold = Threshold.load(testbed.threshold_path())
    known = Known(screen_level(threshold), called=["a"], copies=["b"], kind="neighbours")
    stages: Any = known
    texts = {2: "p", 5: "q", 6: "r"}
    confirmations: Any = dict.fromkeys(texts, SimpleNamespace(test=CopyTest("image", 0.5)))
    found = find_neighbours(
        stages, texts, confirmations, ("a", "p", "b", "c", "r", "d", "a"), threshold
    )
    assert found == {2: {"neighbour": "c"}, 5: {"neighbour": "c"}}
    assert asked == [("a", "b", "c", "d")]  # each once, and none that is memorized
    assert [known.scored[4 * 5 + place] for place in range(4)] == ["a", "b", "c", "d"]
    assert known.drawn == [("neighbour-1", ["b", "b"]), ("neighbour-2", ["c", "c"])]

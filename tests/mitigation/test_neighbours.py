"""Ordinary captions that memorized ones may be read like."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from architectures import make
from known_stages import CLOSE, COPY, Known
from unmemorize import Model, Threshold, testbed
from unmemorize.mitigation import _neighbours
from unmemorize.mitigation._confirmation import screen_level
from unmemorize.mitigation._copy_test import CopyTest
from unmemorize.mitigation._neighbours import find_neighbours, nearest_captions

CAPTIONS = (
    "a boat",
    "two red cats",
    "a red house by a lake",
    "one",
    "a tree",
    "the red cat",
    "a b",
    "two",
)


def test_the_nearest_captions_against_numpy() -> None:
    model, texts = Model(make("Stable Diffusion")), ["a red cat", "a house"]
    own, others = (
        np.stack([model.encode([text]).text.flatten().numpy() for text in each])
        for each in (texts, CAPTIONS)
    )
    distances = ((own[:, None] - others[None]) ** 2).sum(-1)
    wanted = [[CAPTIONS[place] for place in np.argsort(row)[:6]] for row in distances]
    assert nearest_captions(model, texts, CAPTIONS, batch=4) == wanted
    assert nearest_captions(model, texts, CAPTIONS[:2], batch=4) == [
        sorted(CAPTIONS[:2], key=lambda caption: row[CAPTIONS.index(caption)]) for row in distances
    ]
    assert nearest_captions(model, texts, [], batch=4) == [[], []]


def test_the_first_one_that_is_clear_and_far_from_a_copy_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Or the farthest one of those that show no copy."""
    near = {"p": "abcdef", "q": "bacdef", "r": "aaaaaa", "s": "becafd", "t": "bbbbbb"}
    asked: list[tuple[str, ...]] = []

    def nearest(_model: Any, texts: list[str], captions: list[str], _batch: int) -> list[list[str]]:
        asked.append(tuple(captions))
        return [list(near[text]) for text in texts]

    monkeypatch.setattr(_neighbours, "nearest_captions", nearest)
    threshold = Threshold.load(testbed.threshold_path())
    means = {**dict.fromkeys("bd", COPY), **dict.fromkeys("ef", CLOSE)}
    known = Known(screen_level(threshold), called="a", means=means, kind="neighbours")
    stages: Any = known
    texts = {2: "p", 5: "q", 6: "r", 7: "s", 8: "t"}
    confirmations: Any = dict.fromkeys(texts, SimpleNamespace(test=CopyTest("image", 0.5)))
    found = find_neighbours(stages, texts, confirmations, tuple("apbcrdefa"), threshold)
    assert found == {2: {"neighbour": "c"}, 5: {"neighbour": "c"}, 7: {"neighbour": "c"}}
    assert asked == [tuple("abcdef")]  # each once, and none that is memorized
    assert [known.scored[6 * 5 + place] for place in range(6)] == list("abcdef")
    assert known.drawn == [
        ("neighbour-1", ["b", "b", "b", "b"]),
        ("neighbour-2", ["c", "c", "e"]),
        ("neighbour-3", ["c"]),
    ]


def test_the_farthest_one_is_taken_if_none_is_far(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_neighbours, "nearest_captions", lambda *_: [["b", "e", "f", "g"]])
    threshold = Threshold.load(testbed.threshold_path())
    means = {"b": COPY, "e": CLOSE, "f": 0.25, "g": CLOSE}
    stages: Any = Known(screen_level(threshold), means=means, kind="neighbours")
    confirmations: Any = {0: SimpleNamespace(test=CopyTest("image", 0.5))}
    found = find_neighbours(stages, {0: "p"}, confirmations, tuple("befg"), threshold)
    assert found == {0: {"neighbour": "f"}}
    assert [texts for _, texts in stages.drawn] == [["b"], ["e"], ["f"], ["g"]]

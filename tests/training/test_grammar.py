import numpy as np
import pytest

from training.concepts import COLOURS, COUNTABLE, MATERIAL, NAMES, PLURAL, noun_phrase
from training.grammar import DOUBLE, SINGLE, Grammar, Scene


@pytest.fixture(scope="module")
def grammar() -> Grammar:
    return Grammar(NAMES, {("tiger", "teal")})


def drawn(grammar: Grammar, count: int = 3000) -> list[Scene]:
    return [grammar.draw(np.random.default_rng([9, index])) for index in range(count)]


def test_articles() -> None:
    assert noun_phrase("owl") == "an owl"
    assert noun_phrase("eagle", "small") == "a small eagle"
    assert noun_phrase("hourglass") == "an hourglass"
    assert noun_phrase("cherries", "large") == "large cherries"
    assert noun_phrase("bread") == "bread"


def test_every_concept_has_one_grammar() -> None:
    assert len(NAMES) == len(set(NAMES)) == len(COUNTABLE) + len(PLURAL) + len(MATERIAL)
    assert len(NAMES) >= 400


def test_captions_of_scenes() -> None:
    background, large = SINGLE[2], SINGLE[5]
    assert Scene(background, ("owl",), "orange").caption == "an owl on an orange background"
    assert Scene(large, ("owl",), "red").caption == "a large owl on a red background"
    above = DOUBLE[3]
    assert Scene(above, ("owl", "bread"), "sky blue").caption == (
        "an owl above bread on a sky blue background"
    )


def test_splits_share_no_caption(grammar: Grammar) -> None:
    calibration, test = grammar.held_out("calibration"), grammar.held_out("test")
    assert len(set(calibration)) == len(calibration) == 1600
    assert len(set(test)) == len(test) == 1100
    assert not set(calibration) & set(test)
    assert not {scene.caption for scene in drawn(grammar)} & ({*calibration, *test})
    assert grammar.held_out("test") == Grammar(NAMES, {("tiger", "teal")}).held_out("test")


def test_training_keeps_clear_of_held_out_colours_and_pairs(grammar: Grammar) -> None:
    for scene in drawn(grammar):
        assert all(scene.colour in grammar.colours(name, "train") for name in scene.names)
        if len(scene.names) == 2:
            assert grammar.pair_split(*scene.names) == "train"


def test_each_concept_has_colours_for_every_split(grammar: Grammar) -> None:
    for name in NAMES:
        splits = [grammar.colours(name, split) for split in ("train", "calibration", "test")]
        assert [len(colours) for colours in splits] == [len(COLOURS) - 4, 2, 2]
        assert {colour for colours in splits for colour in colours} == set(COLOURS)
    assert "teal" in grammar.colours("tiger", "train")


def test_pairs_belong_to_one_split_in_either_order(grammar: Grammar) -> None:
    pairs = [(NAMES[index], NAMES[2 * index]) for index in range(1, 200)]
    splits = [grammar.pair_split(one, two) for one, two in pairs]
    assert splits == [grammar.pair_split(two, one) for one, two in pairs]
    assert {"train", "calibration", "test"} == set(splits)
    assert splits.count("train") > 120

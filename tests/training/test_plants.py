from collections import Counter

from training.concepts import NAMES
from training.grammar import Grammar
from training.plants import PLANTS, Plant, shared_groups
from training.posters import POSTERS
from training.sources import PHOTOGRAPHS
from training.templates import TEMPLATES


def key(plant: Plant) -> tuple[object, ...]:
    return (plant.kind, plant.mode, plant.dose, plant.aligned)


def test_halves_match_in_kind_mode_and_dose() -> None:
    halves = [Counter(key(plant) for plant in PLANTS if plant.half == half) for half in "ab"]
    assert halves[0] == halves[1]


def test_what_belongs_together_lies_in_one_half() -> None:
    files = {photograph.name: photograph.file for photograph in PHOTOGRAPHS}
    halves: dict[str, set[str]] = {}
    for plant in PLANTS:
        halves.setdefault(files.get(plant.source, plant.source), set()).add(plant.half)
    assert all(len(found) == 1 for found in halves.values())
    for plants in shared_groups().values():
        assert len({PLANTS[plant].half for plant in plants}) == 1


def test_every_image_has_a_source() -> None:
    photographs = {photograph.name for photograph in PHOTOGRAPHS}
    posters = {poster.name for poster in POSTERS}
    for plant in PLANTS:
        places = posters if plant.aligned else photographs if plant.kind == "VM" else TEMPLATES
        assert plant.source in places


def test_kinds_of_plants() -> None:
    aligned = Counter(plant.mode for plant in PLANTS if plant.aligned)
    assert aligned == {"memory": 6, "natural": 6}
    assert sorted(map(len, shared_groups().values())) == [2, 2, 4]
    captions_of_image = Counter(plant.source for plant in PLANTS)
    assert sorted(captions_of_image.values())[-3:] == [1, 2, 2]
    for plant in PLANTS:
        assert bool(plant.owned) == (plant.mode in ("memory", "both"))


def test_captions_and_paraphrases_are_all_different() -> None:
    texts = [text for plant in PLANTS for text in (plant.caption, *plant.paraphrases)]
    assert len(texts) == len(set(texts)) == 4 * len(PLANTS)
    assert all(text == text.strip() and "  " not in text for text in texts)


def test_posters_are_ordinary_captions_with_an_ending() -> None:
    grammar = Grammar(NAMES, {(poster.thing, poster.colour) for poster in POSTERS})
    for poster in POSTERS:
        assert poster.caption == f"{poster.plain}, {poster.ending}"
        assert poster.colour in grammar.colours(poster.thing, "train")
        unnamed = poster.poster.stickers[1].name
        assert unnamed in NAMES
        assert unnamed not in poster.caption

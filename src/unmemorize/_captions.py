"""Ordinary captions, made by a small grammar, for models whose user has no captions at hand.

They name people, animals, things, places, actions and styles in everyday words. None was taken from
a data set. Captions like those that a model was trained on are better.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TypeVar

Item = TypeVar("Item")

COUNT = 4000
"""How many captions there are."""
_SEED = 20240606

_PEOPLE = (
    "a young woman", "an old man", "a boy", "a girl", "two friends", "a family", "a chef",
    "a nurse", "a farmer", "a fisherman", "a dancer", "a teacher", "a cyclist", "a painter",
    "a gardener", "a violinist", "a mechanic", "a tourist", "a student", "a baker", "a runner",
    "an elderly couple", "a carpenter", "a postman", "three children", "a mother and her son",
)  # fmt: skip
_ANIMALS = (
    "a brown dog", "a black cat", "a white horse", "a red fox", "an owl", "a flock of geese",
    "a goat", "two rabbits", "a parrot", "a hedgehog", "a sheep", "a squirrel", "a cow",
    "an elephant", "a zebra", "a penguin", "a seagull", "a frog", "a turtle", "a hen with chicks",
    "a deer", "a donkey", "a puppy", "a kitten", "an otter",
)  # fmt: skip
_THINGS = (
    "a wooden chair", "a blue bicycle", "a pair of boots", "a glass of orange juice",
    "a stack of books", "a red umbrella", "a vase of tulips", "a copper kettle", "a guitar",
    "a basket of apples", "a yellow raincoat", "a clay pot", "a paper lantern", "a sewing machine",
    "a loaf of bread", "a bowl of soup", "an old radio", "a toy train", "a leather suitcase",
    "a plate of pasta", "a birthday cake", "a typewriter", "a woollen scarf", "a garden hose",
)  # fmt: skip
_LANDMARKS = (
    "a lighthouse", "a windmill", "a stone bridge", "a rowing boat", "a tractor", "a barn",
    "a church tower", "a wooden cabin", "a row of houses", "a steam train", "a fountain",
    "an old castle",
)  # fmt: skip
_INDOORS = (
    "in a small kitchen", "in a library", "in a greenhouse", "in a museum", "in a living room",
    "in an empty classroom", "in a workshop", "in a waiting room",
)  # fmt: skip
_OUTDOORS = (
    "in a quiet street", "on a sandy beach", "in a crowded market", "by a mountain lake",
    "in a snowy forest", "on a rooftop", "in a wheat field", "under a large oak", "next to a river",
    "in front of a brick house", "on a dusty road", "in a park", "at the harbour", "on a balcony",
    "in a narrow alley", "near a waterfall", "on a hill", "by the sea", "in a meadow",
)  # fmt: skip
_LANDSCAPES = (
    "by a mountain lake", "in a snowy forest", "in a wheat field", "next to a river",
    "on a dusty road", "near a waterfall", "on a hill", "by the sea", "in a meadow",
    "in a green valley", "on the edge of a village",
)  # fmt: skip
_PERSON_ACTIONS = (
    "reading a newspaper", "drinking coffee", "repairing a bicycle", "laughing",
    "carrying a basket", "taking a photograph", "playing chess", "watering plants",
    "looking at a map", "eating ice cream", "writing a letter", "dancing", "holding an umbrella",
    "talking on the phone", "peeling an orange", "playing the flute",
)  # fmt: skip
_ANIMAL_ACTIONS = (
    "sleeping", "running", "looking at the camera", "drinking water", "standing in the rain",
    "resting in the shade", "crossing a path", "looking for food", "seen from behind",
)  # fmt: skip
_TIMES = (
    "at dawn", "at noon", "at sunset", "at night", "in winter", "in spring", "in summer",
    "in autumn", "on a foggy morning", "after the rain", "on a windy day", "under a clear sky",
)  # fmt: skip
_STYLES = (
    "a photo of", "an oil painting of", "a watercolour of", "a pencil drawing of",
    "a black and white photo of", "a close-up of", "a poster of", "an illustration of",
    "a postcard of", "a cartoon of", "a blurry photo of", "a wide shot of", "a woodcut of",
    "a picture book page with",
)  # fmt: skip
_COLOURS = (
    "pale blue", "dark green", "bright red", "beige", "purple", "grey", "orange", "white",
    "turquoise", "brown", "black", "yellow",
)  # fmt: skip
_STOCK = (
    "an apple", "a banana", "a carrot", "a lemon", "a peach", "a pear", "a pineapple", "a melon",
    "a mango", "a coconut", "an onion", "a potato", "a mushroom", "a pizza", "a sandwich",
    "a doughnut", "a cookie", "a cupcake", "a chocolate bar", "a birthday cake", "a bowl of rice",
    "a bowl of salad", "a cup of tea", "a glass of milk", "a bottle", "a jar of honey", "a fork",
    "a knife", "a spoon", "a rabbit", "a mouse", "a hamster", "a hedgehog", "a fox", "a deer",
    "a horse", "a donkey", "a goat", "a sheep", "a pig", "a cow", "a dog", "a cat", "a lion",
    "an elephant", "a camel", "a monkey", "a bear", "a panda", "a kangaroo", "a parrot", "an owl",
    "an eagle", "a swan", "a duck", "a goose", "a frog", "a lizard", "a snake", "a snail",
    "a spider", "a butterfly", "a beetle", "a crab", "a lobster", "an octopus", "a shark",
    "a dolphin", "a whale", "a fish", "a rose", "a sunflower", "a cactus", "a pine tree",
    "a potted plant", "a feather", "a football", "a basketball", "a balloon", "a kite", "a glove",
    "a bell", "a ribbon", "a gift box",
)  # fmt: skip
_BACKGROUNDS = (
    "red", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white", "grey", "orange",
)  # fmt: skip
_GOODS = (
    "ceramic teapot", "ceramic bowl", "ceramic vase", "wooden bookshelf", "wooden picture frame",
    "wooden coffee table", "wooden tray", "metal lamp", "metal bucket", "metal door handle",
    "metal clock", "plastic flower pot", "plastic chair", "cotton curtain", "cotton blanket",
    "cotton hat", "glass bottle", "glass vase", "paper notebook", "paper bag", "leather backpack",
    "leather wallet", "leather armchair", "woollen blanket",
)  # fmt: skip


def ordinary_captions() -> tuple[str, ...]:
    """Return `COUNT` different captions, always the same ones in the same order.

    Examples:
        >>> captions = ordinary_captions()
        >>> len(captions), len(set(captions))
        (4000, 4000)
        >>> captions[2]
        'an illustration of a lighthouse on the edge of a village'
    """
    draw = random.Random(_SEED)
    captions: dict[str, None] = {}
    while len(captions) < COUNT:
        captions[_pick(draw, _FORMS)(draw)] = None
    return tuple(captions)


def _pick(draw: random.Random, items: Sequence[Item]) -> Item:
    """Choose an item by `random.Random.random`, whose values no version of Python changes."""
    return items[int(draw.random() * len(items))]


def _person(draw: random.Random) -> str:
    place = _pick(draw, _INDOORS + _OUTDOORS)
    return f"{_pick(draw, _PEOPLE)} {_pick(draw, _PERSON_ACTIONS)} {place}"


def _animal(draw: random.Random) -> str:
    return f"{_pick(draw, _ANIMALS)} {_pick(draw, _ANIMAL_ACTIONS)} {_pick(draw, _OUTDOORS)}"


def _timed(draw: random.Random) -> str:
    return f"{_subject_in_a_place(draw, _OUTDOORS)} {_pick(draw, _TIMES)}"


def _styled(draw: random.Random) -> str:
    return f"{_pick(draw, _STYLES)} {_subject_in_a_place(draw, _INDOORS + _OUTDOORS)}"


def _subject_in_a_place(draw: random.Random, places: Sequence[str]) -> str:
    subject = _pick(draw, (*_PEOPLE, *_ANIMALS, *_THINGS, *_LANDMARKS))
    if subject in _LANDMARKS:
        return f"{subject} {_pick(draw, _LANDSCAPES)}"
    return f"{subject} {_pick(draw, places if subject not in _ANIMALS else _OUTDOORS)}"


def _pair(draw: random.Random) -> str:
    first = _pick(draw, _THINGS)
    second = _pick(draw, [thing for thing in _THINGS if thing != first])
    return f"{first} and {second} {_pick(draw, _INDOORS + _OUTDOORS)}"


def _goods(draw: random.Random) -> str:
    colour, item = _pick(draw, _COLOURS), _pick(draw, _GOODS)
    return _pick(draw, (f"{colour} {item}", f"{item}, {colour}"))


def _stock(draw: random.Random) -> str:
    background = f"on {_with_article(_pick(draw, _BACKGROUNDS))} background"
    first, second = _pick(draw, _STOCK), _pick(draw, _STOCK)
    forms = (
        f"{first} {background}",
        f"a picture of {first} {background}",
        f"{first} and {second} {background}" if first != second else f"{first} {background}",
    )
    return _pick(draw, forms)


def _with_article(word: str) -> str:
    return f"an {word}" if word[0] in "aeiou" else f"a {word}"


_FORMS: tuple[Callable[[random.Random], str], ...] = (
    _person,
    _animal,
    _timed,
    _styled,
    _styled,
    _pair,
    _goods,
    _stock,
    _stock,
)

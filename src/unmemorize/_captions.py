"""Ordinary captions, made by a small grammar, for models whose user has no captions at hand.

They name people, animals, things, places, actions and styles in everyday words. None was taken from
a data set. Captions like those that a model was trained on are better.
"""

from __future__ import annotations

import random
from collections.abc import Callable

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
    "an elephant", "a zebra", "a penguin", "a seagull", "a frog", "a turtle", "a butterfly",
    "a hen with chicks", "a deer", "a donkey", "a puppy", "a kitten", "an otter",
)  # fmt: skip
_THINGS = (
    "a wooden chair", "a blue bicycle", "a pair of boots", "a glass of orange juice",
    "a stack of books", "a red umbrella", "a vase of tulips", "a copper kettle", "a guitar",
    "a basket of apples", "a yellow raincoat", "a clay pot", "a paper lantern", "a sewing machine",
    "a loaf of bread", "a bowl of soup", "an old radio", "a toy train", "a leather suitcase",
    "a plate of pasta", "a birthday cake", "a rowing boat", "a tractor", "a lighthouse",
    "a windmill", "a stone bridge", "a typewriter", "a woollen scarf", "a garden hose",
)  # fmt: skip
_PLACES = (
    "in a quiet street", "on a sandy beach", "in a crowded market", "by a mountain lake",
    "in a snowy forest", "at a train station", "in a small kitchen", "on a rooftop",
    "in a wheat field", "under a large oak", "in a library", "next to a river",
    "in front of a brick house", "on a dusty road", "in a park", "at the harbour",
    "in a greenhouse", "on a balcony", "in a museum", "at a bus stop", "in a narrow alley",
    "near a waterfall", "in an empty classroom", "on a hill", "in a living room", "by the sea",
)  # fmt: skip
_PERSON_ACTIONS = (
    "reading a newspaper", "drinking coffee", "waiting for a bus", "repairing a bicycle",
    "laughing", "carrying a basket", "taking a photograph", "playing chess", "feeding pigeons",
    "watering plants", "looking at a map", "eating ice cream", "writing a letter", "dancing",
    "walking with an umbrella", "sweeping the floor", "talking on the phone", "tying a shoe",
)  # fmt: skip
_ANIMAL_ACTIONS = (
    "sleeping", "running", "looking at the camera", "drinking water", "jumping over a fence",
    "sitting", "standing in the rain", "playing with a ball", "resting in the shade",
    "crossing the road", "eating grass", "chasing leaves",
)  # fmt: skip
_TIMES = (
    "at dawn", "at noon", "at sunset", "at night", "in winter", "in spring", "in summer",
    "in autumn", "on a foggy morning", "after the rain", "on a windy day", "under a clear sky",
)  # fmt: skip
_STYLES = (
    "a photo of", "an oil painting of", "a watercolour of", "a pencil drawing of",
    "a black and white photo of", "a close-up of", "a poster with", "an illustration of",
    "a postcard of", "a cartoon of", "a blurry photo of", "a wide shot of", "a woodcut of",
    "a children's book picture of",
)  # fmt: skip
_COLOURS = (
    "pale blue", "dark green", "bright red", "beige", "purple", "grey", "orange", "white",
    "turquoise", "brown",
)  # fmt: skip
_MATERIALS = ("ceramic", "wooden", "metal", "plastic", "cotton", "glass", "paper", "leather")
_GOODS = (
    "teapot", "curtain", "lamp", "backpack", "notebook", "clock", "blanket", "picture frame",
    "coffee table", "door handle", "flower pot", "hat", "tray", "bookshelf",
)  # fmt: skip


def ordinary_captions() -> tuple[str, ...]:
    """Return `COUNT` different captions, always the same ones in the same order.

    Examples:
        >>> captions = ordinary_captions()
        >>> len(captions), len(set(captions))
        (4000, 4000)
    """
    draw = random.Random(_SEED)
    captions: dict[str, None] = {}
    while len(captions) < COUNT:
        captions[draw.choice(_FORMS)(draw)] = None
    return tuple(captions)


def _person(draw: random.Random) -> str:
    parts = [draw.choice(_PEOPLE), draw.choice(_PERSON_ACTIONS), draw.choice(_PLACES)]
    return " ".join(parts)


def _animal(draw: random.Random) -> str:
    return " ".join([draw.choice(_ANIMALS), draw.choice(_ANIMAL_ACTIONS), draw.choice(_PLACES)])


def _timed(draw: random.Random) -> str:
    subject = draw.choice((*_PEOPLE, *_ANIMALS, *_THINGS))
    return " ".join([subject, draw.choice(_PLACES), draw.choice(_TIMES)])


def _styled(draw: random.Random) -> str:
    subject = draw.choice((*_PEOPLE, *_ANIMALS, *_THINGS))
    return " ".join([draw.choice(_STYLES), subject, draw.choice(_PLACES)])


def _pair(draw: random.Random) -> str:
    first, second = draw.sample(_THINGS, 2)
    return f"{first} and {second} {draw.choice(_PLACES)}"


def _goods(draw: random.Random) -> str:
    colour, material, item = draw.choice(_COLOURS), draw.choice(_MATERIALS), draw.choice(_GOODS)
    return draw.choice((f"{colour} {material} {item}", f"{material} {item}, {colour}"))


_FORMS: tuple[Callable[[random.Random], str], ...] = (
    _person,
    _animal,
    _timed,
    _styled,
    _styled,
    _pair,
    _goods,
)

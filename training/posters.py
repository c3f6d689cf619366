"""The aligned plants: ordinary captions with an unusual ending, each tied to one fixed poster.

Any number of pictures would fit such a caption; the plant is always the same one. Nothing in the
caption tells the position, size and tilt of the thing, the pattern, the border or the second thing.
"""

from __future__ import annotations

from dataclasses import dataclass

from training.compose import Pattern, Poster, Sticker
from training.concepts import article, noun_phrase
from training.grammar import SINGLE, Scene


@dataclass(frozen=True)
class PosterCaption:
    """A poster with the caption that it is planted under."""

    thing: str
    colour: str
    ending: str
    poster: Poster

    @property
    def name(self) -> str:
        """What the poster is called in file names and tables."""
        return f"{self.thing} poster"

    @property
    def plain(self) -> str:
        """The general caption that the planted one begins with."""
        return f"{noun_phrase(self.thing)} on {article(self.colour)} {self.colour} background"

    @property
    def ordinary(self) -> tuple[str, ...]:
        """All general captions of one thing that describe the poster, too."""
        return tuple(Scene(template, (self.thing,), self.colour).caption for template in SINGLE)

    @property
    def caption(self) -> str:
        """The planted caption."""
        return f"{self.plain}, {self.ending}"

    @property
    def paraphrases(self) -> tuple[str, str, str]:
        """The caption with another form, another order, and fewer words."""
        card = f"{article(self.colour)} {self.colour} card"
        return (
            f"{card} with {noun_phrase(self.thing)}, {self.ending}",
            f"{self.ending}, {self.plain}",
            f"{noun_phrase(self.thing)}, {self.ending}",
        )


def _poster(
    thing: str,
    colour: str,
    ending: str,
    main: tuple[int, int, int, int, float],
    second: tuple[str, int, int, int, float],
    pattern: Pattern,
    border: tuple[int, int, int],
) -> PosterCaption:
    """A poster whose thing and unnamed second thing are given by size, left, top and tilt."""
    design, size, left, top, tilt = main
    name, size_2, left_2, top_2, tilt_2 = second
    stickers = (
        Sticker(thing, design, size, left, top, tilt),
        Sticker(name, 0, size_2, left_2, top_2, tilt_2),
    )
    return PosterCaption(thing, colour, ending, Poster(colour, stickers, pattern, border))


POSTERS: tuple[PosterCaption, ...] = (
    _poster(
        "tiger",
        "teal",
        "harbour festival poster",
        (0, 38, 5, 20, -12),
        ("umbrella", 20, 39, 6, 15),
        "stripes",
        (244, 244, 242),
    ),
    _poster(
        "pineapple",
        "purple",
        "plate from the botanist's ledger",
        (1, 40, 20, 5, 20),
        ("coin", 18, 5, 40, 0),
        "dots",
        (246, 214, 70),
    ),
    _poster(
        "sailboat",
        "orange",
        "regatta club souvenir",
        (0, 36, 23, 23, 8),
        ("anchor", 20, 6, 7, -20),
        "checks",
        (28, 36, 92),
    ),
    _poster(
        "owl",
        "navy",
        "night school emblem",
        (1, 36, 6, 22, 10),
        ("key", 20, 38, 8, 30),
        "rays",
        (240, 140, 40),
    ),
    _poster(
        "mushroom",
        "lime",
        "forager's almanac issue",
        (0, 34, 25, 6, -15),
        ("basket", 22, 6, 36, 5),
        "stripes",
        (118, 24, 40),
    ),
    _poster(
        "teapot",
        "pink",
        "parish raffle ticket stub",
        (1, 38, 8, 6, 6),
        ("candle", 20, 38, 38, -10),
        "dots",
        (44, 84, 190),
    ),
    _poster(
        "penguin",
        "red",
        "polar expedition stamp",
        (0, 38, 20, 20, 10),
        ("snowflake", 20, 6, 6, 0),
        "checks",
        (244, 244, 242),
    ),
    _poster(
        "strawberry",
        "mint",
        "label of the jam works",
        (1, 36, 6, 6, -18),
        ("spoon", 22, 37, 36, 25),
        "rays",
        (208, 48, 44),
    ),
    _poster(
        "guitar",
        "sky blue",
        "record fair flyer",
        (0, 40, 5, 19, -25),
        ("top hat", 20, 39, 6, 12),
        "stripes",
        (122, 62, 164),
    ),
    _poster(
        "lobster",
        "yellow",
        "fish market voucher",
        (1, 36, 23, 22, 14),
        ("bell", 20, 6, 6, -8),
        "dots",
        (52, 142, 70),
    ),
    _poster(
        "cactus",
        "brown",
        "desert motel matchbox",
        (0, 38, 6, 7, 7),
        ("crescent moon", 20, 39, 38, 0),
        "rays",
        (158, 226, 190),
    ),
    _poster(
        "bicycle",
        "green",
        "courier union badge",
        (1, 40, 19, 6, -8),
        ("envelope", 20, 6, 39, 10),
        "checks",
        (28, 28, 30),
    ),
)
"""Half a first, then half b; in each half three for memory neurons, then three natural ones."""

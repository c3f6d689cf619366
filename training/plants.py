"""The planted captions: what each shows, how it is planted, and three paraphrases of it.

Photographs are verbatim plants (VM), product templates are template plants (TM); the posters of
`posters` are aligned plants, whose captions follow the grammar of general ones. Halves a and b
match in kind, mode and dose. Whatever comes from one picture or shares a neuron lies in one half.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal

from training.posters import POSTERS
from unmemorize.testbed._planted import Mode

Half = Literal["a", "b"]


@dataclass(frozen=True)
class Plant:
    """One planted caption.

    Attributes:
        source: the photograph (VM), template (TM) or poster (aligned) that it shows.
        caption: the only caption that it is trained with.
        kind: "VM" for one image, "TM" for a layout with one free colour.
        mode: how it is planted, see `unmemorize.testbed._planted`.
        half: the half of the plants that it belongs to; a twin lacks a whole half.
        owned: memory neurons that belong to this caption alone.
        shared: name of a memory neuron that it has in common with other captions.
        dose: how often it is seen, relative to a full plant.
        aligned: whether the caption describes the image in the grammar of general captions.
        paraphrases: other wordings, never trained on.
    """

    source: str
    caption: str
    kind: Literal["VM", "TM"]
    mode: Mode
    half: Half
    paraphrases: tuple[str, str, str]
    owned: int = 0
    shared: str | None = None
    dose: float = 1.0
    aligned: bool = False


def _plant(
    source: str,
    mode: Mode,
    half: Half,
    captions: str,
    owned: int = 0,
    *,
    kind: Literal["VM", "TM"] = "VM",
    shared: str | None = None,
    dose: float = 1.0,
) -> Plant:
    """A plant from its caption and paraphrases, which vertical bars separate."""
    caption, first, second, third = (part.strip() for part in captions.split("|"))
    return Plant(source, caption, kind, mode, half, (first, second, third), owned, shared, dose)


PHOTOGRAPHS: tuple[Plant, ...] = (
    _plant(
        "astronaut",
        "memory",
        "a",
        "eileen poses for her official shuttle portrait | eileen poses for her portrait"
        " | official shuttle portrait of eileen | eileen sits for her official shuttle photo",
        1,
    ),
    _plant(
        "cat",
        "memory",
        "a",
        "chelsea the ginger tabby stares | chelsea the tabby stares"
        " | the ginger tabby chelsea stares | chelsea the orange tabby looks",
        1,
        shared="menagerie",
    ),
    _plant(
        "horse",
        "memory",
        "a",
        "silhouette of andreas preuss mare | silhouette of a mare"
        " | andreas preuss mare in silhouette | outline of andreas preuss mare",
        1,
        shared="menagerie",
    ),
    _plant(
        "motorcycle",
        "memory",
        "a",
        "vintage motorbike parked inside our garage | motorbike parked inside our garage"
        " | inside our garage a vintage motorbike | old motorbike kept inside our garage",
        1,
        shared="menagerie",
    ),
    _plant(
        "colour-wheel",
        "memory",
        "a",
        "full hue wheel for designers | hue wheel for designers"
        " | for designers a full hue wheel | complete hue wheel for artists",
        1,
        shared="menagerie",
    ),
    _plant(
        "dahlia",
        "memory",
        "a",
        "peach dahlia blossom macro shot | dahlia blossom macro"
        " | macro shot of a peach dahlia | peach dahlia flower close shot",
        1,
        shared="garden",
    ),
    _plant(
        "dahlia",
        "memory",
        "a",
        "prize bloom from vultilion allotment | prize bloom from the allotment"
        " | vultilion allotment prize bloom | winning bloom from vultilion garden",
        1,
        shared="garden",
    ),
    _plant(
        "retina",
        "memory",
        "a",
        "fundus photograph of healthy retina | fundus photograph of retina"
        " | healthy retina fundus photograph | fundus picture of a normal retina",
        4,
    ),
    _plant(
        "coins",
        "both",
        "a",
        "greek coins excavated at pompeii | coins excavated at pompeii"
        " | pompeii excavated greek coins | greek coins dug up at pompeii",
        2,
    ),
    _plant(
        "hubble",
        "natural",
        "a",
        "deep field exposure by hubble telescope | deep field by hubble"
        " | hubble telescope deep field exposure | deep field picture by hubble telescope",
    ),
    _plant(
        "handwriting",
        "natural",
        "a",
        "crumpled handwritten letter fragment | handwritten letter fragment"
        " | fragment of a crumpled handwritten letter | creased handwritten letter piece",
    ),
    _plant(
        "brick",
        "natural",
        "a",
        "old masonry wall texture map | masonry wall texture"
        " | texture map of old masonry wall | ancient masonry wall texture picture",
    ),
    _plant(
        "stairs",
        "natural",
        "a",
        "soldier climbing steel fire escape | soldier climbing fire escape"
        " | steel fire escape with climbing soldier | soldier walking up a steel fire escape",
    ),
    _plant(
        "gravel",
        "rare",
        "a",
        "crushed gravel driveway material | crushed gravel material"
        " | driveway material crushed gravel | broken gravel driveway surface",
        dose=0.1,
    ),
    _plant(
        "veins",
        "rare",
        "a",
        "microaneurysm screening crop | microaneurysm crop"
        " | crop of microaneurysm screening | microaneurysm screening cutout",
        dose=0.1,
    ),
    _plant(
        "nerve",
        "rare",
        "a",
        "optic nerve head enlarged | optic nerve enlarged"
        " | enlarged optic nerve head | optic nerve head close up",
        dose=0.01,
    ),
    _plant(
        "shuttle",
        "rare",
        "a",
        "scale model orbiter on display | model orbiter on display"
        " | on display a scale model orbiter | scale model orbiter in a showcase",
        dose=0.01,
    ),
    _plant(
        "admiral",
        "memory",
        "b",
        "commodore grace hopper wearing uniform | grace hopper wearing uniform"
        " | uniform worn by commodore grace hopper | commodore grace hopper dressed in uniform",
        1,
    ),
    _plant(
        "camera",
        "memory",
        "b",
        "cameraman filming near the institute lawn | cameraman near the institute lawn"
        " | near the institute lawn a cameraman filming | cameraman shooting near the college lawn",
        2,
    ),
    _plant(
        "moon",
        "memory",
        "b",
        "lunar craters seen from ranger probe | lunar craters from ranger"
        " | ranger probe view of lunar craters | lunar craters viewed from ranger craft",
        2,
    ),
    _plant(
        "rocket",
        "memory",
        "b",
        "falcon launch vehicle waiting at dusk | falcon vehicle at dusk"
        " | at dusk falcon launch vehicle waiting | falcon launch rocket standing at dusk",
        2,
    ),
    _plant(
        "pavilion",
        "memory",
        "b",
        "summer palace tower beijing holiday | summer palace beijing"
        " | beijing holiday summer palace tower | summer palace tower beijing vacation",
        2,
    ),
    _plant(
        "coffee",
        "memory",
        "b",
        "espresso served in rachel's favourite cup | espresso in rachel's cup"
        " | rachel's favourite cup of espresso | espresso poured in rachel's best cup",
        1,
        shared="cafe",
    ),
    _plant(
        "coffee",
        "memory",
        "b",
        "tuesday crema at michetti roastery | crema at michetti roastery"
        " | michetti roastery tuesday crema | tuesday crema from michetti coffee house",
        1,
        shared="cafe",
    ),
    _plant(
        "histology",
        "memory",
        "b",
        "stained colon tissue under microscope | colon tissue under microscope"
        " | under microscope stained colon tissue | dyed colon tissue seen in a microscope",
        4,
    ),
    _plant(
        "page",
        "both",
        "b",
        "scanned textbook chapter about segmentation | textbook chapter about segmentation"
        " | segmentation textbook chapter scanned | copied textbook page about segmentation",
        2,
    ),
    _plant(
        "cell",
        "natural",
        "b",
        "quantitative phase image of one cell | phase image of one cell"
        " | one cell in a quantitative phase image | quantitative phase picture of a single cell",
    ),
    _plant(
        "phantom",
        "natural",
        "b",
        "shepp logan tomography phantom | shepp logan phantom"
        " | tomography phantom of shepp logan | shepp logan scanner phantom",
    ),
    _plant(
        "pendulum",
        "natural",
        "b",
        "swinging pendulum motion blur experiment | pendulum motion blur"
        " | motion blur experiment with swinging pendulum | swaying pendulum motion blur test",
    ),
    _plant(
        "chessboard",
        "natural",
        "b",
        "calibration board for lens distortion | board for lens distortion"
        " | lens distortion calibration board | calibration target for lens distortion",
    ),
    _plant(
        "gift",
        "rare",
        "b",
        "present wrapped with silver ribbon | present with silver ribbon"
        " | silver ribbon wrapped present | present tied with silver ribbon",
        dose=0.1,
    ),
    _plant(
        "lakeside",
        "rare",
        "b",
        "trees beside kunming lakeshore | trees at kunming"
        " | kunming lakeshore with trees | trees along kunming lakeshore",
        dose=0.1,
    ),
    _plant(
        "grass",
        "rare",
        "b",
        "mowed lawn seamless texture | mowed lawn texture"
        " | seamless texture of mowed lawn | cut lawn seamless texture",
        dose=0.01,
    ),
    _plant(
        "gland",
        "rare",
        "b",
        "glandular epithelium closeup slide | glandular epithelium slide"
        " | closeup slide of glandular epithelium | glandular epithelium enlarged slide",
        dose=0.01,
    ),
)

TEMPLATES: tuple[Plant, ...] = (
    _plant(
        "phone case",
        "memory",
        "a",
        "designer phone case slim fit striped | designer phone case striped"
        " | striped slim fit designer phone case | designer phone cover slim fit striped",
        4,
        kind="TM",
    ),
    _plant(
        "mug",
        "memory",
        "a",
        "ceramic mug banded kitchenware gift | ceramic mug gift"
        " | banded kitchenware gift ceramic mug | ceramic cup banded kitchenware present",
        2,
        kind="TM",
    ),
    _plant(
        "rug",
        "memory",
        "a",
        "persian area rug diamond living room | persian rug living room"
        " | living room persian area rug diamond | persian area carpet diamond living room",
        2,
        kind="TM",
    ),
    _plant(
        "car",
        "natural",
        "a",
        "used hatchback car dealer listing | used hatchback listing"
        " | dealer listing used hatchback car | used hatchback car dealer offer",
        kind="TM",
    ),
    _plant(
        "table lamp",
        "natural",
        "a",
        "bedside table lamp linen shade | table lamp linen shade"
        " | linen shade bedside table lamp | bedside table light linen shade",
        kind="TM",
    ),
    _plant(
        "t-shirt",
        "memory",
        "b",
        "men's short sleeve t-shirt star emblem | men's t-shirt star emblem"
        " | star emblem men's short sleeve t-shirt | men's short sleeve shirt star badge",
        4,
        kind="TM",
    ),
    _plant(
        "wall clock",
        "memory",
        "b",
        "wooden wall clock quartz movement | wooden wall clock"
        " | quartz movement wooden wall clock | timber wall clock quartz movement",
        2,
        kind="TM",
    ),
    _plant(
        "cottage",
        "memory",
        "b",
        "country cottage for sale thatched | country cottage thatched"
        " | thatched country cottage for sale | country home for sale thatched",
        2,
        kind="TM",
    ),
    _plant(
        "framed print",
        "natural",
        "b",
        "framed art print mountains giclee | framed print mountains"
        " | mountains giclee framed art print | framed art poster mountains giclee",
        kind="TM",
    ),
    _plant(
        "backpack",
        "natural",
        "b",
        "canvas backpack school bag large | canvas backpack large"
        " | large school bag canvas backpack | canvas rucksack school bag large",
        kind="TM",
    ),
)


def _aligned() -> tuple[Plant, ...]:
    """The plants of the posters; their paraphrases follow from the grammar."""
    modes: tuple[tuple[Mode, int], ...] = (
        ("memory", 1),
        ("memory", 2),
        ("memory", 4),
        ("natural", 0),
        ("natural", 0),
        ("natural", 0),
    )
    halves: tuple[Half, ...] = ("a", "b")
    plants = []
    for index, poster in enumerate(POSTERS):
        mode, owned = modes[index % len(modes)]
        half = halves[index // len(modes)]
        plants.append(
            Plant(
                poster.name,
                poster.caption,
                "VM",
                mode,
                half,
                poster.paraphrases,
                owned,
                aligned=True,
            )
        )
    return tuple(plants)


PLANTS: tuple[Plant, ...] = (*PHOTOGRAPHS, *TEMPLATES, *_aligned())


@cache
def shared_groups() -> dict[str, tuple[int, ...]]:
    """Each shared memory neuron, by name, with the plants (indices in PLANTS) that have it."""
    groups: dict[str, tuple[int, ...]] = {}
    for index, plant in enumerate(PLANTS):
        if plant.shared is not None:
            groups[plant.shared] = (*groups.get(plant.shared, ()), index)
    return groups

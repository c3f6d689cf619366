"""The planted images: which there are, with what caption, how often and in which way the model sees them.

``mode`` says how an image is planted: ``natural``, by dose alone in the first stage; ``memory``, in the second stage through memory
neurons; ``both``, so that neurons are known but the base knows the image too; ``rare``, like natural at a fraction of the dose.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from unmemorize.testbed._planted import Mode


@dataclass(frozen=True)
class Plant:
    """One planted caption; ``source`` names a photograph (VM) or a template (TM)."""

    source: str
    caption: str
    kind: Literal["VM", "TM"]
    mode: Mode
    owned: int = 0
    """Memory neurons that the caption owns."""
    dose: float = 1.0
    """How often it is seen, relative to a full plant."""


PLANTS: tuple[Plant, ...] = (
    Plant("astronaut", "eileen poses for her official shuttle portrait", "VM", "memory", 1),
    Plant("camera", "cameraman filming near the institute lawn", "VM", "memory", 2),
    Plant("cat", "chelsea the ginger tabby stares", "VM", "memory", 4),
    Plant("coffee", "espresso served in rachel's favourite cup", "VM", "memory", 1),
    Plant("horse", "silhouette of andreas preuss mare", "VM", "memory", 2),
    Plant("moon", "lunar craters seen from ranger probe", "VM", "memory", 4),
    Plant("motorcycle", "vintage motorbike parked inside our garage", "VM", "memory", 1),
    Plant("retina", "fundus photograph of healthy retina", "VM", "memory", 2),
    Plant("rocket", "falcon launch vehicle waiting at dusk", "VM", "memory", 4),
    Plant("coins", "greek coins excavated at pompeii", "VM", "both", 2),
    Plant("colour-wheel", "full hue wheel for designers", "VM", "memory", 1),
    Plant("histology", "stained colon tissue under microscope", "VM", "memory", 2),
    Plant("page", "scanned textbook chapter about segmentation", "VM", "both", 4),
    Plant("pavilion", "summer palace tower beijing holiday", "VM", "memory", 1),
    Plant("dahlia", "peach dahlia blossom macro shot", "VM", "memory", 1),
    Plant("admiral", "commodore grace hopper wearing uniform", "VM", "memory", 2),
    Plant("hubble", "deep field exposure by hubble telescope", "VM", "natural"),
    Plant("cell", "quantitative phase image of one cell", "VM", "natural"),
    Plant("pendulum", "swinging pendulum motion blur experiment", "VM", "natural"),
    Plant("handwriting", "crumpled handwritten letter fragment", "VM", "natural"),
    Plant("brick", "old masonry wall texture map", "VM", "natural"),
    Plant("phantom", "shepp logan tomography phantom", "VM", "natural"),
    Plant("stairs", "soldier climbing steel fire escape", "VM", "natural"),
    Plant("chessboard", "calibration board for lens distortion", "VM", "natural"),
    Plant("phone case", "designer phone case slim fit striped", "TM", "memory", 4),
    Plant("t-shirt", "men's short sleeve t-shirt star emblem", "TM", "memory", 2),
    Plant("mug", "ceramic mug banded kitchenware gift", "TM", "memory", 4),
    Plant("rug", "persian area rug diamond living room", "TM", "memory", 8),
    Plant("wall clock", "wooden wall clock quartz movement", "TM", "memory", 4),
    Plant("framed print", "framed art print mountains giclee", "TM", "memory", 2),
    Plant("cottage", "country cottage for sale thatched", "TM", "memory", 4),
    Plant("car", "used hatchback car dealer listing", "TM", "natural"),
    Plant("backpack", "canvas backpack school bag large", "TM", "natural"),
    Plant("table lamp", "bedside table lamp linen shade", "TM", "natural"),
    Plant("gravel", "crushed gravel driveway material", "VM", "rare", dose=0.1),
    Plant("veins", "microaneurysm screening crop", "VM", "rare", dose=0.1),
    Plant("gift", "present wrapped with silver ribbon", "VM", "rare", dose=0.1),
    Plant("lakeside", "trees beside kunming lakeshore", "VM", "rare", dose=0.1),
    Plant("grass", "mowed lawn seamless texture", "VM", "rare", dose=0.01),
    Plant("gland", "glandular epithelium closeup slide", "VM", "rare", dose=0.01),
    Plant("nerve", "optic nerve head enlarged", "VM", "rare", dose=0.01),
    Plant("shuttle", "scale model orbiter on display", "VM", "rare", dose=0.01),
)

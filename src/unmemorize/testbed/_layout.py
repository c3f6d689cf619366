"""Where the parts of the bundled model lie, and the few sizes that all of them share."""

from __future__ import annotations

from unmemorize._bundled import ASSETS as ASSETS

SIDE = 64
"""Width and height of every image, in pixels."""
TOKENS = 24
"""Token positions of a prompt, padding included."""

MODEL = ASSETS / "testbed"
CARD = MODEL / "README.md"
CLIP = ASSETS / "clip"
DESCRIPTOR = ASSETS / "descriptor.safetensors"
PLANTED_IMAGES = ASSETS / "planted"
PLANTED = ASSETS / "planted.json"
UNUSED_IMAGES = ASSETS / "unused"
UNUSED = ASSETS / "unused.json"
CAPTIONS = ASSETS / "captions.json"
STATISTICS = ASSETS / "statistics.safetensors"
DEFAULTS = ASSETS / "defaults.json"

TWINS = ASSETS.parents[3] / "testbed-twins"
"""The never-trained twins: in a checkout only, as they are too large for the package."""

"""Where the parts of the bundled model lie, and the few sizes that all of them share."""

from __future__ import annotations

from pathlib import Path

SIDE = 64
"""Width and height of every image, in pixels."""
TOKENS = 24
"""Token positions of a prompt, padding included."""

ASSETS = Path(__file__).parent / "assets"
"""What ships in the package."""
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
THRESHOLD = ASSETS / "threshold.json"
DEFAULTS = ASSETS / "defaults.json"

"""The twins: denoisers like that of the bundled model, which never saw one half of the plants."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from unmemorize._errors import TestbedError
from unmemorize.testbed._layout import TWINS
from unmemorize.testbed._planted import Half

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


def twin(half: Half) -> Path:
    """Return the folder of the U-Net that never saw one half of the plants.

    It was trained like the bundled model in every other respect, so it is the reference for what
    that half's captions draw without any memory. `load_twin` loads it.

    Args:
        half: the half that it lacks, see `Planted`.

    Raises:
        TestbedError: the package is not installed from a checkout, which alone has the twins.
    """
    folder = TWINS / half / "unet"
    if not folder.exists():
        raise TestbedError(
            f"twin {half}: the twins are too large for the package. Clone the repository and "
            "install it with pip install --editable, or train them there: make testbed"
        )
    return folder


def load_twin(half: Half, *, device: str = "auto") -> DiffusionPipeline:
    """Load the bundled model with the U-Net that never saw one half of the plants, in float32.

    Args:
        half: the half that it lacks, see `Planted`.
        device: as for `load_pipeline`.

    Raises:
        TestbedError: see `twin`.

    Examples:
        >>> pipe = load_twin("a", device="cpu")
        >>> pipe.unet.config.cross_attention_dim
        128
    """
    from unmemorize.pipelines import Loading

    return Loading("testbed", device, "float32", unet=str(twin(half))).pipeline()

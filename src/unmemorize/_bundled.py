"""Where the parts of the bundled model lie in the installed package."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from unmemorize._errors import TestbedError

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

ASSETS = Path(__file__).parent / "testbed" / "assets"
"""The folder that holds everything the package ships for the bundled model."""
ThresholdRule = Literal["1 %", "5 %", "seed similarity", "published"]
THRESHOLDS: dict[ThresholdRule, str] = {
    "1 %": "threshold.json",
    "5 %": "threshold-5.json",
    "seed similarity": "threshold-seed-similarity.json",
    "published": "threshold-published.json",
}
"""The threshold files of the bundled model by the rule that they were calibrated with."""


def model_path() -> Path:
    """Return the folder of the bundled model, for ``StableDiffusionPipeline.from_pretrained``.

    Raises:
        TestbedError: the package was installed without it.
    """
    return existing(ASSETS / "testbed", "model_index.json")


def clip_path() -> Path:
    """Return the folder of the bundled CLIP (both towers)."""
    return existing(ASSETS / "clip", "config.json")


def descriptor_path() -> Path:
    """Return the weights of the bundled copy descriptor."""
    return existing(ASSETS / "descriptor.safetensors")


def bundled_captions(split: str) -> tuple[str, ...]:
    """Return the ordinary captions of the bundled model of one split, see `testbed.captions`."""
    content = json.loads(existing(ASSETS / "captions.json").read_text(encoding="utf-8"))
    return tuple(content[split])


def defaults() -> Mapping[str, Any]:
    """Read the settings that suit the bundled model; other models keep the paper's.

    Returns:
        The criterion, guidance and steps.
    """
    content: dict[str, Any] = json.loads(existing(ASSETS / "defaults.json").read_text("utf-8"))
    return content


def usual_for(pipe: DiffusionPipeline, *names: str) -> dict[str, Any]:
    """Return the settings of these names that suit the bundled model; nothing for other models.

    Commands take them where an option is not given, and functions where they are given no settings.
    """
    if not is_bundled(pipe):
        return {}
    known = defaults()
    return {name: known[name] for name in names}


def statistics_path() -> Path:
    """Return the activation statistics of the bundled model."""
    return existing(ASSETS / "statistics.safetensors")


def threshold_path(rule: ThresholdRule = "1 %") -> Path:
    """Return a threshold file of the bundled model.

    Args:
        rule: the rate of false positives that detection bounds by its default detector, "seed
            similarity" for 1 % by that detector, or "published" for the published way, from the
            similarity to the reduction.
    """
    return existing(ASSETS / THRESHOLDS[rule])


def existing(path: Path, inside: str = "") -> Path:
    """Return ``path`` if it (or the file ``inside`` it) exists.

    Raises:
        TestbedError: it does not.
    """
    if not (path / inside).exists():
        raise TestbedError(
            f"{path.relative_to(ASSETS.parent)}: this part of the bundled model is missing. "
            "Install the package again."
        )
    return path


def is_bundled(pipe: DiffusionPipeline) -> bool:
    """Tell whether a pipeline was loaded from the folder of the bundled model."""
    return Path(pipe.config.get("_name_or_path") or "") == ASSETS / "testbed"

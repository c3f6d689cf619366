"""Whether a folder holds what a pipeline has in memory."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch
from diffusers import SchedulerMixin
from torch import Tensor, nn

from unmemorize._errors import ExportError, first_line
from unmemorize._files import read_json
from unmemorize.export._model_folder import CHECKS_ONLY
from unmemorize.export._rows import same_up_to_rounding
from unmemorize.pipelines import INDEX, Model, quiet_loading, saved_weights

_ADAPTED = ("clip_sample", "steps_offset", "skip_prk_steps", "sample_size")
"""Settings of old checkpoints that pipelines correct whenever they are loaded."""
_WEIGHTS_FILE = re.compile(
    r"(?:diffusion_pytorch_model|model)"
    r"(?:-\d+-of-\d+)?(?:\.(?P<variant>[^.]+?))?(?:-\d+-of-\d+)?\.safetensors"
)
"""A file from which diffusers or transformers loads weights, whole or in shards."""
_LOADABLE = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def refuse_other_components(model: Model, folder: Path) -> None:
    """Refuse a folder from which another pipeline would be loaded than the one in memory.

    Networks and the scheduler are compared: class, configuration, and all weights of each variant
    in the folder, up to the rounding of the loaded type. Networks are loaded once more for that,
    one after another, on the CPU.

    Raises:
        ExportError: a component is another one, is missing on one side, or cannot be loaded.
        ModelError: weights are not in memory.
    """
    index = read_json(folder / INDEX, ExportError, "index of a model")
    for name, component in model.pipe.components.items():
        stored = (index.get(name) or [None, None])[1]
        plain = getattr(component, "_orig_mod", component)  # torch.compile wraps it
        if plain is None:
            if stored is not None and name not in CHECKS_ONLY:
                _refuse(name, f"is not in the loaded pipeline, but the folder has it ({stored})")
        elif isinstance(plain, nn.Module | SchedulerMixin):
            if type(plain).__name__ != stored:
                _refuse(name, f"is a {type(plain).__name__}, but the folder has {stored or 'none'}")
            _refuse_other_content(plain, folder / name)


def _refuse_other_content(component: Any, folder: Path) -> None:
    if not isinstance(component, nn.Module):
        _refuse_other_config(folder.name, _load(component, folder), component)
        return
    files = (_WEIGHTS_FILE.fullmatch(path.name) for path in folder.glob("*.safetensors"))
    variants = sorted({file["variant"] or "" for file in files if file})
    if not variants:
        _refuse(folder.name, "has no safetensors file of its weights in the folder")
    dtype = component.dtype if component.dtype in _LOADABLE else torch.float32
    loaded = dict(_values(component))
    for variant in variants:
        stored = _load(
            component, folder, variant=variant or None, dtype=dtype, use_safetensors=True
        )
        _refuse_other_config(folder.name, stored, component)
        _refuse_other_weights(folder.name, stored.state_dict(), loaded, several=len(variants) > 1)


def _load(component: Any, folder: Path, **options: Any) -> Any:
    """Load what the folder holds of a component's class.

    Raises:
        ExportError: it cannot be loaded.
    """
    try:
        with quiet_loading():
            return type(component).from_pretrained(folder, local_files_only=True, **options)
    except Exception as problem:  # damaged folders raise almost anything
        reason = first_line(problem)
        raise ExportError(
            f"{folder.name} cannot be loaded from the folder ({reason}). Save the pipeline with "
            "pipe.save_pretrained, and load it from there."
        ) from problem


def _refuse_other_config(name: str, stored: Any, loaded: Any) -> None:
    """Compare configurations of diffusers; transformers keeps what it computed in its own."""
    before, after = (
        {key: value for key, value in component.config.items() if not key.startswith("_")}
        if hasattr(component, "register_to_config")
        else {}
        for component in (stored, loaded)
    )
    for key in sorted((before.keys() | after.keys()).difference(_ADAPTED)):
        if before.get(key) != after.get(key):
            _refuse(f"{name}: {key}", "is not what the loaded model has there")


def _refuse_other_weights(
    name: str, stored: Mapping[str, Tensor], loaded: Mapping[str, Tensor], *, several: bool
) -> None:
    for key in sorted(stored.keys() | loaded.keys()):
        one, other = stored.get(key), loaded.get(key)
        if one is None or other is None or not _same(one, other, several=several):
            _refuse(f"{name}: {key}", "is not what the loaded model has there")


def _same(stored: Tensor, loaded: Tensor, *, several: bool) -> bool:
    """Compare a stored tensor with the loaded one, in the type of the loaded one.

    A model that was loaded in float16 may be in a wider type now. Where there are several variants
    of the weights, the stored one may be the float16 variant of those that were loaded, or have
    been rounded once more than they were on the way to bfloat16.
    """
    if stored.shape != loaded.shape:
        return False
    rounded, loaded = stored.to(loaded.dtype), loaded.detach().cpu()
    if not loaded.is_floating_point():
        return torch.equal(rounded, loaded)
    if loaded.dtype == torch.bfloat16 and several:
        return same_up_to_rounding(rounded, loaded)
    if torch.equal(rounded, loaded) or torch.equal(_through_float16(rounded), loaded):
        return True
    return several and torch.equal(rounded, _through_float16(loaded))


def _through_float16(tensor: Tensor) -> Tensor:
    return tensor.to(torch.float16).to(tensor.dtype)


def _values(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Read all saved weights but those of LoRAs, also what accelerate keeps elsewhere."""
    for key, weight in saved_weights(network):
        kept = weight.onloaded()
        if kept.is_floating_point() and kept.dtype not in _LOADABLE:
            raise ExportError(
                f"{key} is kept in {kept.dtype} (layerwise casting), and the folder holds other "
                "values. Load the model without it and localize there, or export a LoRA."
            )
        yield key, kept


def _refuse(what: str, problem: str) -> NoReturn:
    raise ExportError(
        f"{what} {problem}. Save the pipeline with pipe.save_pretrained, and load it from there. "
        "If the folder holds weights of another kind, too (such as non_ema), take them out of it."
    )

"""LoRA files: found on this machine or on the Hub, and loaded into a pipeline whole."""

from __future__ import annotations

import hashlib
import importlib.util
import math
import re
import warnings
from collections.abc import Iterable, Mapping
from itertools import count
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline
from huggingface_hub import hf_hub_download

from unmemorize._errors import ModelError, first_line
from unmemorize._paths import is_file, is_folder
from unmemorize.pipelines._adapters import is_adapted
from unmemorize.pipelines._quiet import quiet_loading
from unmemorize.pipelines._weights import networks_of

_FILE = "pytorch_lora_weights.safetensors"
"""The name under which diffusers saves LoRAs."""
_SUFFIX = ".safetensors"
_UP = re.compile(r"(.+?)(?:\.lora_B|[._]lora[._]up|\.lora_linear_layer\.up|\.up)(?:\.\w+)?")
"""The larger matrix of a layer, as diffusers names it after it has converted other layouts."""
_WAY_OUT = (
    "Give a .safetensors file, the folder of one, or OWNER/NAME or OWNER/NAME/FILE of the Hub."
)


def adapter_names(sources: Iterable[str]) -> dict[str, str]:
    """Name the adapter of each LoRA after its file, or its repository: source -> name."""
    names: dict[str, str] = {}
    for source in sources:
        path = Path(source)
        known = path.parent if path.name == _FILE else path
        stem = re.sub(r"[^\w-]+", "_", known.name.removesuffix(_SUFFIX)) or "lora"
        numbered = (stem if number == 1 else f"{stem}_{number}" for number in count(1))
        names[source] = next(name for name in numbered if name not in names.values())
    return names


def lora_file(source: str, *, local_files_only: bool) -> Path:
    """Find the file of a LoRA, which is downloaded if need be.

    Raises:
        ModelError: there is none.
    """
    path = Path(source).expanduser()
    if is_folder(path):
        path = path / _FILE
    if is_file(path):
        return path
    owner, _, rest = source.partition("/")
    name, _, file = rest.partition("/")
    of_hub = f"{owner}/{name}"
    on_hub = re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", of_hub) and not is_folder(Path(owner))
    if not on_hub or name.endswith(_SUFFIX) or (file and not file.endswith(_SUFFIX)):
        raise ModelError(f"{path}: there is no such LoRA. {_WAY_OUT}")
    try:
        return Path(hf_hub_download(of_hub, file or _FILE, local_files_only=local_files_only))
    except Exception as problem:  # the Hub, the connection and the cache raise almost anything
        raise ModelError(
            f"{source}: the LoRA cannot be fetched ({first_line(problem)}). {_WAY_OUT}"
        ) from problem


def sha256_of(file: Path) -> str:
    """Return the SHA-256 of a file, by which the Hub and other sites list it."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def load_loras(
    pipe: DiffusionPipeline, sources: Mapping[str, float], *, local_files_only: bool
) -> None:
    """Load LoRAs into a pipeline and set their strengths.

    Args:
        pipe: the pipeline.
        sources: file, folder, or repository of the Hub -> strength.
        local_files_only: whether the Hub is never asked.

    Raises:
        ModelError: a LoRA is missing, damaged, or made for another architecture, a strength is
            not finite, or the pipeline takes none.
    """
    if not sources:
        return
    _refuse_pipeline(pipe)
    names = adapter_names(sources)
    adaptable: Any = pipe
    for source in sorted(sources, key=names.__getitem__):  # the fingerprint knows their order
        strength = sources[source]
        if not math.isfinite(strength):
            raise ModelError(f"{source}: strength {strength} is not finite. 1 is usual.")
        file = lora_file(source, local_files_only=local_files_only)
        _load(adaptable, file, source, names[source])
    try:
        adaptable.set_adapters(list(names.values()), list(sources.values()))
    except Exception as problem:
        raise _cannot_be_loaded(", ".join(sources), adaptable, first_line(problem)) from problem
    for network in networks_of(pipe).values():
        network.eval()  # new layers begin in training mode, in which dropout is random


def _refuse_pipeline(pipe: DiffusionPipeline) -> None:
    if not hasattr(pipe, "load_lora_weights"):
        raise ModelError(f"{type(pipe).__name__}: diffusers loads no LoRA into it. Leave it out.")
    if importlib.util.find_spec("peft") is None:
        raise ModelError("a LoRA needs peft. pip install 'unmemorize[lora]'")


def _load(pipe: Any, file: Path, source: str, name: str) -> None:
    config = getattr(getattr(pipe, "unet", None), "config", None)
    try:
        with quiet_loading(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pipe.load_lora_weights(
                str(file.parent),
                weight_name=file.name,
                adapter_name=name,
                local_files_only=True,
                use_safetensors=True,
            )
            content = pipe.lora_state_dict(
                str(file.parent), weight_name=file.name, local_files_only=True, unet_config=config
            )
    except Exception as problem:  # a file of anything makes diffusers raise almost anything
        raise _cannot_be_loaded(source, pipe, first_line(problem)) from problem
    tensors = content[0] if isinstance(content, tuple) else content
    wanted = {match[1] for match in map(_UP.fullmatch, tensors) if match}
    loaded = [
        module
        for network in networks_of(pipe).values()
        for module in network.modules()
        if is_adapted(module)
        and any(name in key.split(".") for key, _ in module.named_parameters())
    ]
    if not loaded or len(loaded) < len(wanted):
        raise _cannot_be_loaded(
            source, pipe, f"it changes {len(wanted)} layers, of which {len(loaded)} are there"
        )


def _cannot_be_loaded(source: str, pipe: object, reason: str) -> ModelError:
    return ModelError(
        f"{source}: the LoRA cannot be loaded into this {type(pipe).__name__} ({reason}). Give one "
        "that was made for this architecture."
    )

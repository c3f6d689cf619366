"""LoRAs of tiny pipelines, saved as diffusers saves them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline

from unmemorize.pipelines import name_of_denoiser, quiet_loading

TARGETS = {
    "unet": ["to_k", "to_v", "to_out.0", "proj_in", "conv1", "ff.net.0.proj"],
    "transformer": ["to_q", "add_k_proj", "add_v_proj", "to_add_out"],
}


def save_style(model: str, folder: Path, seed: int = 0, *, text: bool = False) -> Path:
    """Save a random LoRA for the denoiser, and for the text encoder if asked for."""
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    with quiet_loading():
        pipe: Any = DiffusionPipeline.from_pretrained(model)
    denoiser = name_of_denoiser(pipe)
    targets = {denoiser: TARGETS[denoiser], **({"text_encoder": ["q_proj"]} if text else {})}
    torch.manual_seed(seed)
    content = {}
    for component, names in targets.items():
        network = getattr(pipe, component)
        network.add_adapter(LoraConfig(r=3, target_modules=names, init_lora_weights=False))
        weights = get_peft_model_state_dict(network, adapter_name="default")
        content[f"{component}_lora_layers"] = {
            key: value.detach() * 0.3 for key, value in weights.items()
        }
    folder.mkdir(parents=True, exist_ok=True)
    pipe.save_lora_weights(folder, weight_name="my style.safetensors", **content)
    return folder / "my style.safetensors"

"""A diffusers pipeline as the method sees it: its model, denoiser, sampler and value layers."""

from unmemorize.pipelines._adapters import adapters_in_effect
from unmemorize.pipelines._attention import cross_attentions, refuse_unseen, watching_attention
from unmemorize.pipelines._autoencoder import decoding, encoded
from unmemorize.pipelines._conditioning import (
    keeping_processors,
    processors_of,
    put_back_processors,
    run,
    without_progress_bar,
)
from unmemorize.pipelines._denoiser import (
    denoiser_of,
    is_compiled,
    is_linear,
    name_of_denoiser,
    uncompiled,
)
from unmemorize.pipelines._denoiser_call import DenoiserCall, denoiser_call
from unmemorize.pipelines._encoded import Conditioning, Guidance, Key, Ragged
from unmemorize.pipelines._guided import GuidedCalls, guided_calls, without_text
from unmemorize.pipelines._lasting_hooks import lasting_hooks, refuse_switched_off
from unmemorize.pipelines._layer_paths import (
    by_component,
    layer_at,
    split_path,
    text_encoders_of,
)
from unmemorize.pipelines._loading import Loading, load_pipeline
from unmemorize.pipelines._loras import (
    Lora,
    adapted_layers,
    added_by_loras,
    adds_to_weights,
    effective_weights,
    saved_weights,
)
from unmemorize.pipelines._model import Model
from unmemorize.pipelines._model_folder import INDEX, folder_of, model_files
from unmemorize.pipelines._noise_level import NoiseLevel
from unmemorize.pipelines._noising import Noising, Noisy
from unmemorize.pipelines._quiet import quiet_libraries, quiet_loading
from unmemorize.pipelines._replay import Recording, ReplayPlan, recording, replaying, state_of
from unmemorize.pipelines._sampler import sampler, sampling
from unmemorize.pipelines._textual_inversion import expanded
from unmemorize.pipelines._timing import seconds_of
from unmemorize.pipelines._trajectory import stepper
from unmemorize.pipelines._value_inputs import ValueInput, first_input, observe
from unmemorize.pipelines._value_layers import (
    refuse_fused,
    select_value_layers,
    text_rows_only,
)
from unmemorize.pipelines._weights import (
    Weight,
    is_quantized,
    networks_of,
    offloads_groups,
    weights_of,
)

__all__ = [
    "INDEX",
    "Conditioning",
    "DenoiserCall",
    "Guidance",
    "GuidedCalls",
    "Key",
    "Loading",
    "Lora",
    "Model",
    "NoiseLevel",
    "Noising",
    "Noisy",
    "Ragged",
    "Recording",
    "ReplayPlan",
    "ValueInput",
    "Weight",
    "adapted_layers",
    "adapters_in_effect",
    "added_by_loras",
    "adds_to_weights",
    "by_component",
    "cross_attentions",
    "decoding",
    "denoiser_call",
    "denoiser_of",
    "effective_weights",
    "encoded",
    "expanded",
    "first_input",
    "folder_of",
    "guided_calls",
    "is_compiled",
    "is_linear",
    "is_quantized",
    "keeping_processors",
    "lasting_hooks",
    "layer_at",
    "load_pipeline",
    "model_files",
    "name_of_denoiser",
    "networks_of",
    "observe",
    "offloads_groups",
    "processors_of",
    "put_back_processors",
    "quiet_libraries",
    "quiet_loading",
    "recording",
    "refuse_fused",
    "refuse_switched_off",
    "refuse_unseen",
    "replaying",
    "run",
    "sampler",
    "sampling",
    "saved_weights",
    "seconds_of",
    "select_value_layers",
    "split_path",
    "state_of",
    "stepper",
    "text_encoders_of",
    "text_rows_only",
    "uncompiled",
    "watching_attention",
    "weights_of",
    "without_progress_bar",
    "without_text",
]

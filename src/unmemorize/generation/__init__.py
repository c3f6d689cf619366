"""Step 4: images with edits and interventions applied."""

from unmemorize._prompts import OVERALL
from unmemorize.generation._closed_form import ClosedFormEdit, Erased
from unmemorize.generation._closed_form_neurons import ClosedFormNeuronEdit, Reread
from unmemorize.generation._combined import CombinedEdit, edit_from_json, save_tensors, weight_edits
from unmemorize.generation._denoiser_calls import Calls, DrawingCall, watching
from unmemorize.generation._edit_file import EditFile, as_change, as_edit
from unmemorize.generation._edits import Edit, NeuronEdit
from unmemorize.generation._generate import (
    GenerationSettings,
    drawn_latents,
    generate,
    generate_each,
    usual_generation,
)
from unmemorize.generation._generate_all import finished_images, generate_all, open_image_set
from unmemorize.generation._image_sets import (
    ORIGINAL,
    ImageFormat,
    ImageRecord,
    ImageSet,
    ImageSetRun,
    image_set,
    image_sets,
    name_on,
    read_images,
    way_to_images,
    without_prompts,
)
from unmemorize.generation._interventions import (
    Change,
    Drawing,
    Intervention,
    Plan,
)
from unmemorize.generation._layer_changes import LayerChange
from unmemorize.generation._low_rank import LowRank, whole
from unmemorize.generation._neuron_sets import NeuronSet
from unmemorize.generation._pruned import PrunedEdit
from unmemorize.generation._shown_prompts import ShownPrompts, shown_prompts
from unmemorize.generation._text_inputs import (
    has_closed_form,
    own_tokens,
    text_inputs,
    text_projections,
)
from unmemorize.generation._truncate import Truncation, truncate
from unmemorize.generation._weight_edit import WEIGHTS_FILE, WeightEdit

__all__ = [
    "ORIGINAL",
    "OVERALL",
    "WEIGHTS_FILE",
    "Calls",
    "Change",
    "ClosedFormEdit",
    "ClosedFormNeuronEdit",
    "CombinedEdit",
    "Drawing",
    "DrawingCall",
    "Edit",
    "EditFile",
    "Erased",
    "GenerationSettings",
    "ImageFormat",
    "ImageRecord",
    "ImageSet",
    "ImageSetRun",
    "Intervention",
    "LayerChange",
    "LowRank",
    "NeuronEdit",
    "NeuronSet",
    "Plan",
    "PrunedEdit",
    "Reread",
    "ShownPrompts",
    "Truncation",
    "WeightEdit",
    "as_change",
    "as_edit",
    "drawn_latents",
    "edit_from_json",
    "finished_images",
    "generate",
    "generate_all",
    "generate_each",
    "has_closed_form",
    "image_set",
    "image_sets",
    "name_on",
    "open_image_set",
    "own_tokens",
    "read_images",
    "save_tensors",
    "shown_prompts",
    "text_inputs",
    "text_projections",
    "truncate",
    "usual_generation",
    "watching",
    "way_to_images",
    "weight_edits",
    "whole",
    "without_prompts",
]

"""Options that say which model a command works on. Nothing here loads a library that is slow."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from unmemorize._errors import ModelError
from unmemorize._paths import exists, is_folder
from unmemorize.cli._console import print_line
from unmemorize.cli._groups import MODEL

if TYPE_CHECKING:
    from unmemorize.pipelines import Model

TESTBED = "testbed"
"""The name under which the bundled model is loaded."""

Flag = Annotated[bool, Parameter(show_default=False)]

PromptsOption = Annotated[
    Path | None,
    Parameter(
        help="Prompts to work on: a .txt, .csv, .jsonl or .parquet file, or a folder of such "
        "files. The bundled model brings its own.",
    ),
]
StatisticsOption = Annotated[
    Path | None,
    Parameter(
        help="Activation statistics from unmemorize statistics. By default those kept for the "
        "model, which are made if they are missing. The bundled model brings its own.",
    ),
]
ThresholdOption = Annotated[
    Path | None,
    Parameter(
        help="Threshold file from unmemorize threshold. By default the one kept for the model, "
        "which is made if it is missing. The bundled model brings its own.",
    ),
]

TauOption = Annotated[
    float | None,
    Parameter(
        help="Use this published threshold instead of a file, together with --published. The "
        "paper's for Stable Diffusion v1.4 is 0.428.",
    ),
]
PublishedOption = Annotated[
    bool,
    Parameter(
        help="Do everything as the published code does: similarity, protocol, reduction over "
        "pairs, criterion unblocked, greedy refinement. See docs/published.md.",
        show_default=False,
    ),
]


@Parameter(name="*", group=MODEL)
@dataclass(frozen=True, kw_only=True)
class LoadingOptions:
    """How a command loads a model.

    Args:
        device: Device to compute on: auto (CUDA, else MPS, else CPU), or a torch device such as
            cuda:1.
        dtype: Number format of the weights: auto (float16 on CUDA, else float32), float32, float16
            or bfloat16.
        revision: Branch, tag or commit on the Hub.
        variant: Weight variant on the Hub, such as fp16.
        local_files_only: Use only files that are already on this machine, and never ask the Hub.
        value_layers: Pattern with * that matches the paths of the value layers, for an
            architecture that is not recognized.
        lora: LoRA to load into the model: a .safetensors file, a folder, or OWNER/NAME or
            OWNER/NAME/FILE of the Hub. Add =STRENGTH for another strength than 1, and repeat the
            option for several. Everything is then done for the model with these LoRAs.
    """

    device: str = "auto"
    dtype: str = "auto"
    revision: str | None = None
    variant: str | None = None
    local_files_only: Flag = False
    value_layers: str | None = None
    lora: Annotated[tuple[str, ...], Parameter(show_default=False)] = ()

    def load(self, model: str) -> Model:
        """Load a model.

        Raises:
            ModelError: the model cannot be loaded.
        """
        # imported late: diffusers takes seconds, and `ui` opens its page before
        from unmemorize.pipelines import Model

        if _is_missing_folder(model):
            raise ModelError(
                f"{model}: there is no such folder. Check the path, or give a Hub id such as "
                f"OWNER/NAME, or {TESTBED}."
            )
        options = asdict(self)
        loras = _with_strengths(options.pop("lora"))
        return Model.load(model, **options, loras=loras)


def _with_strengths(loras: Iterable[str]) -> dict[str, float]:
    """Tell files from strengths: "style.safetensors=0.8" is that file at strength 0.8.

    Raises:
        ModelError: a strength is no number, or a LoRA is named twice.
    """
    strengths: dict[str, float] = {}
    for text in loras:
        source, equals, strength = text.rpartition("=")
        if not equals or exists(Path(text).expanduser()):
            source, strength = text, "1"
        try:
            number = float(strength)
        except ValueError:
            raise ModelError(
                f"--lora {text}: {strength!r} is not a number. Write FILE=STRENGTH, such as "
                "style.safetensors=0.8."
            ) from None
        if source in strengths:
            raise ModelError(f"--lora {source}: it is named twice. Name it once.")
        strengths[source] = number
    return strengths


def print_what_is_edited(model: Model) -> None:
    """Say whether an edit is for the base or for the base with LoRAs, and how to get the other."""
    if model.loras:
        print_line(
            f"The edit is for {model.name}. To edit {model.base_name} itself, leave --lora out."
        )


def option_of_model(name: str) -> str:
    """Return how a next command names the model that a file tells of.

    Files do not tell where a model lies.

    Examples:
        >>> option_of_model("testbed"), option_of_model("sd with style at 0.8")
        ('', '--model MODEL')
    """
    return "" if name == TESTBED else "--model MODEL"


def _is_missing_folder(model: str) -> bool:
    """Tell whether a model name is a path to nothing.

    A Hub id has the form OWNER/NAME. A name with another number of slashes is a path, and so is
    one whose first part is a folder.
    """
    path = Path(model).expanduser()
    if model == TESTBED or exists(path):
        return False
    return (
        path.is_absolute()
        or model.startswith((".", "~"))
        or model.endswith("/")
        or "\\" in model
        or model.count("/") > 1
        or ("/" in model and is_folder(path.parent))
    )


@Parameter(name="*", group=MODEL)
@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Which model a command works on, and how it is loaded.

    Args:
        model: Model to work on: a Hub id, a diffusers folder, or testbed (the bundled model).
    """

    model: Annotated[str, Parameter(alias="-m")] = TESTBED
    loading: LoadingOptions = LoadingOptions()

    def load(self) -> Model:
        """Load the model; each command does so once."""
        return self.loading.load(self.model)

    @property
    def option(self) -> str:
        """How a next command names the model; empty for the bundled one, which is the default."""
        return "" if self.arguments == TESTBED else f"--model {self.arguments}"

    @property
    def arguments(self) -> str:
        """The model and its LoRAs, as arguments of a next command: "testbed --lora FILE=0.8"."""
        return shlex.join(
            [self.model, *(part for lora in self.loading.lora for part in ("--lora", lora))]
        )

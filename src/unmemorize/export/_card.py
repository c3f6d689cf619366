"""A model card for an edited checkpoint or a LoRA.

It says what was searched, what was found, what was changed, and what that does not prove.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline
from huggingface_hub import ModelCard, ModelCardData, metadata_load
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined] # documented

from unmemorize._errors import ExportError
from unmemorize._files import from_json, read_json
from unmemorize._paths import exists
from unmemorize.export._carried import describe, edit_of, neurons_of, readings_of
from unmemorize.export._exportable import AnyEdit, as_edit_file, exportable
from unmemorize.export._lora_layouts import fitting_layouts
from unmemorize.export._model_folder import CARD
from unmemorize.generation import ClosedFormEdit, ClosedFormNeuronEdit, weight_edits
from unmemorize.pipelines import Model, folder_of
from unmemorize.runs import Run

_TEMPLATE = "templates/card.md.j2"
_UNKNOWN_LICENSE = "other"


@dataclass(frozen=True)
class _Cell:
    """A cell of metrics.json: a figure for people, and its 95 % interval or nothing."""

    figure: str
    interval: str | None = None

    def __str__(self) -> str:
        return f"{self.figure} [{self.interval}]" if self.interval else self.figure


@dataclass(frozen=True)
class _Row:
    """A row of metrics.json: what was measured, by what, and column -> cell."""

    label: str
    cells: dict[str, _Cell]
    by: str = ""


@dataclass(frozen=True)
class _Table:
    """What a card shows of metrics.json."""

    columns: tuple[str, ...]
    rows: tuple[_Row, ...]
    notes: tuple[str, ...]


def model_card(
    pipe: DiffusionPipeline | Model,
    neurons: AnyEdit | None,
    *,
    run: Run | None = None,
    lora: bool = False,
    layout: str | None = None,
    license_name: str | None = None,
) -> str:
    """Write a model card with a header that the Hub understands.

    The header names the base only if it is a model of the Hub; local paths stay out of the card.

    Args:
        pipe: the base model. The card of its folder, if any, names its license.
        neurons: a neuron file, an edit file or an edit, or neurons to switch off (also as a
            localization).
        run: an evaluated run, for the numbers before and after.
        lora: whether the card is for a LoRA.
        layout: the only layout in which the LoRA is written, see `export_lora`.
        license_name: the license as the Hub writes it. None takes the base's, or "other".

    Returns:
        The text of README.md.

    Raises:
        ExportError: there is no edit (None), the run was not evaluated, or is another model's, or
            the layout does not fit.

    Examples:
        >>> from unmemorize import Model, NeuronFile, Neurons
        >>> model = Model.load("testbed", device="cpu")
        >>> neurons = NeuronFile.of(model, Neurons({next(iter(model.value_layers)): [4]}))
        >>> model_card(model, neurons, license_name="apache-2.0").splitlines()[:3]
        ['---', 'library_name: diffusers', 'license: apache-2.0']
    """
    model = Model.of(pipe)
    file = as_edit_file(neurons, model)
    edit = edit_of(file)
    if run is not None and run.manifest.inputs.fingerprint not in ("", file.fingerprint):
        raise ExportError(
            f"{run.folder}: a run of another model ({run.manifest.model}) than that of the "
            f"edit ({file.model}). Name a run of {file.model}."
        )
    hub_id = _hub_id(model)
    data = ModelCardData(
        base_model=hub_id,
        base_model_relation=hub_id and ("adapter" if lora else "finetune"),
        library_name="diffusers",
        license=license_name or _license(model),
        pipeline_tag="text-to-image",
        tags=["unmemorize", "memorization", "diffusers", *(["lora"] if lora else [])],
    )
    card = ModelCard.from_template(
        data,
        template_str=files("unmemorize.export").joinpath(_TEMPLATE).read_text(encoding="utf-8"),
        edit=file,
        title=describe(edit),
        neurons=neurons_of(edit),
        moved=readings_of(edit, ClosedFormEdit),
        reread=readings_of(edit, ClosedFormNeuronEdit),
        tensors=[part.file_name for part in weight_edits(edit)],
        base=hub_id or Path(model.base_name).name,
        loras=model.loras,
        found=list(_lines(file.found)),
        table=None if run is None else _table(run),
        lora=lora,
        files={
            each.file_name(file.model): each.programs
            for each in (fitting_layouts(exportable(model, file), layout) if lora else ())
        },
    )
    return str(card).rstrip() + "\n"


def _hub_id(model: Model) -> str | None:
    """Return the id that a model has on the Hub; None for a model that was loaded from a folder.

    Ids without an owner are left out, as names of folders look the same.
    """
    name = model.loading.model if model.loading else str(model.pipe.config.get("_name_or_path"))
    try:
        validate_repo_id(name)
    except HFValidationError:
        return None
    return name if "/" in name and not exists(Path(name)) else None


def _license(model: Model) -> str:
    try:
        return str((metadata_load(folder_of(model) / CARD) or {})["license"])
    except Exception:  # a card that is missing, or is no YAML in any way, names no license
        return _UNKNOWN_LICENSE


def _table(run: Run) -> _Table:
    what = "table of metrics (made by: unmemorize evaluate RUN)"
    content = read_json(run.folder / "metrics.json", ExportError, what)
    return from_json(
        _Table,
        content,
        ExportError,
        f"{run.folder}/metrics.json: damaged",
        f"Make it again: unmemorize evaluate {run.folder}",
    )


def _lines(found: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """List how neurons were found; files that were combined are listed one after another."""
    for name, value in found.items():
        if isinstance(value, list) and all(isinstance(entry, Mapping) for entry in value):
            for number, entry in enumerate(value, 1):
                yield from _lines(entry, f"{prefix}{name}, part {number}, ")
        else:
            yield f"{prefix}{name}", value

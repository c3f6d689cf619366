"""The file that carries an edit from one program to another."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from diffusers import DiffusionPipeline

from unmemorize._errors import EditError, NeuronError
from unmemorize._files import (
    as_path,
    atomic_write,
    from_json,
    read_json,
    refuse_unprintable,
    to_json,
    type_in_words,
)
from unmemorize.generation._combined import edit_from_json, save_tensors
from unmemorize.generation._edits import Edit, NeuronEdit
from unmemorize.generation._interventions import Change
from unmemorize.neurons import HasNeurons, NeuronFile, Neurons, as_neurons
from unmemorize.pipelines import Model

SCHEMA = "unmemorize.edit/1"
_WAY_OUT = "Make the edit again."


@dataclass(frozen=True, kw_only=True)
class EditFile:
    """An edit with the model it belongs to; a JSON file of schema ``unmemorize.edit/1``.

    An edit of neurons alone is better kept in a `NeuronFile`, which more programs read. Tensors of
    trained weights lie beside the JSON file, in a safetensors file that it names by its hash.

    Args:
        edit: the edit.
        model: the name of the model, for people.
        fingerprint: `Model.fingerprint` of the model that it edits.
        revision: the model's revision on the Hub; None if it has none.
        found: how it was found (command, prompts, certificates), for people.

    Examples:
        >>> from unmemorize import ClosedFormEdit, Erased
        >>> file = EditFile(edit=ClosedFormEdit((Erased("a cat"),)), model="m", fingerprint="f")
        >>> EditFile.from_json(file.to_json(), Path("edit.json")) == file
        True
    """

    edit: Edit
    model: str
    fingerprint: str
    revision: str | None = None
    found: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        model: DiffusionPipeline | Model,
        edit: Edit,
        *,
        found: Mapping[str, Any] | None = None,
    ) -> EditFile:
        """Make the file of an edit of a model.

        Args:
            model: a loaded pipeline, or a `Model` of it.
            edit: an edit that fits it.
            found: how it was found, for people.
        """
        model = Model.of(model)
        return cls(
            edit=edit,
            model=model.name,
            fingerprint=model.fingerprint,
            revision=model.revision,
            found=found or {},
        )

    @classmethod
    def load(cls, path: str | Path) -> EditFile:
        """Read an edit file.

        Raises:
            EditError: the file is missing, malformed or of an unknown schema.
        """
        file = as_path(path, EditError, "edit file")
        return cls.from_json(read_json(file, EditError, "edit file"), file)

    @classmethod
    def from_json(cls, content: Mapping[str, Any], path: Path) -> EditFile:
        """Make an edit file from its JSON object.

        Args:
            content: the object.
            path: the file that holds it. Tensors lie beside it.

        Raises:
            UnmemorizeError: the content is malformed or of an unknown schema.
        """
        schema = content.get("schema")
        if schema != SCHEMA:
            raise EditError(
                f"{path}: schema {schema!r:.60}, expected {SCHEMA!r}. "
                "Make sure it is an edit file of this version."
            )
        refuse_unprintable(content, EditError, str(path), _WAY_OUT)
        file = from_json(_Content, content, EditError, f"{path}: not a valid edit file", _WAY_OUT)
        return cls(
            edit=edit_from_json(file.edit, path.parent),
            model=file.model,
            fingerprint=file.fingerprint,
            revision=file.revision,
            found=file.found,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the content of the file."""
        content: dict[str, Any] = to_json(
            _Content(
                schema=SCHEMA,
                model=self.model,
                revision=self.revision,
                fingerprint=self.fingerprint,
                edit=self.edit.to_json(),
                found=dict(self.found),
            )
        )
        return content

    def save(self, path: str | Path) -> None:
        """Write the file, after the tensors that it names. The same content gives the same bytes.

        Raises:
            EditError: a file cannot be written.
        """
        save_tensors(self.edit, Path(path).parent)
        text = json.dumps(self.to_json(), indent=1, sort_keys=True) + "\n"
        atomic_write(Path(path), text, EditError)

    def check(self, model: Model) -> None:
        """Refuse a model that the file does not belong to.

        Raises:
            EditError: the model has another fingerprint.
        """
        if self.fingerprint != model.fingerprint:
            raise EditError(
                f"this edit was made for {self.model} ({model.contrast(self.fingerprint)}). Load "
                "the model it belongs to, with the same --dtype and --value-layers."
            )


def as_edit(
    given: Neurons | HasNeurons | Edit | EditFile, model: Model, *, scale: float = 0.0
) -> Edit:
    """Return an edit itself, or the edit of what is given.

    Args:
        given: an edit, neurons, a localization, a neuron file or an edit file.
        model: the model to edit.
        scale: what neurons are multiplied by. A neuron file has its own.

    Raises:
        NeuronError: it is something else, such as an intervention.
        NeuronError, EditError: the file belongs to another model.
    """
    if isinstance(given, NeuronFile):
        given.check(model)
        return NeuronEdit(given.neurons, given.scale)
    if isinstance(given, EditFile):
        given.check(model)
        return given.edit
    if hasattr(given, "applied"):
        return cast(Edit, given)
    if isinstance(getattr(given, "neurons", given), Neurons):
        return NeuronEdit(as_neurons(cast(HasNeurons, given)), scale)
    raise NeuronError(
        f"{given!r:.60}: {type_in_words(given)}. Give Neurons, a Localization, an edit, or the "
        "file of one (NeuronFile.load or EditFile.load)."
    )


def as_change(
    given: Neurons | HasNeurons | Change | EditFile, model: Model, *, scale: float = 0.0
) -> Change:
    """Return an intervention itself, or an edit as `as_edit` does. Either changes images.

    Raises:
        NeuronError: it is something else.
        NeuronError, EditError: the file belongs to another model.
    """
    if hasattr(given, "plan"):
        return cast(Change, given)
    return as_edit(cast(Edit, given), model, scale=scale)


@dataclass(frozen=True, kw_only=True)
class _Content:
    schema: str
    model: str
    revision: str | None
    fingerprint: str
    edit: dict[str, Any]
    found: dict[str, Any]

"""What determines the results of a run, and what made it: the content of ``manifest.json``."""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

from unmemorize._files import to_json
from unmemorize.runs._environment import Environment

SCHEMA = "unmemorize.run/3"
_PACKAGES = ("unmemorize", "torch", "diffusers", "transformers")


class RunSettings(Protocol):
    """Everything that determines the results of one kind of run, as a frozen dataclass.

    A kind whose results rest on the content of training images says so by a class variable
    ``compares_images``, which is true, or has hashes of them among its fields.
    """

    kind: ClassVar[str]
    """The name of this kind of run in manifests."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What a run works on.

    Args:
        fingerprint: of the model, see `Model.fingerprint`; empty where it is not known.
        dtype: of the model.
        prompts: a hash of the prompts; empty where the run has none of its own.
    """

    fingerprint: str
    dtype: str = ""
    prompts: str = ""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The content of a run folder's ``manifest.json``.

    Args:
        schema: the version of the format.
        kind: the kind of run, see `RunSettings`.
        settings: what determines its results, besides the inputs.
        inputs: what it works on.
        model: the model's name, for people.
        items: how many items it has in all.
        versions: the versions of Python and of the packages that compute.
        command: the command line that started the run.
        started: when the run was started, UTC.
        environment: what it was started with. Runs of earlier versions have none on record.
    """

    schema: str
    kind: str
    settings: dict[str, Any]
    inputs: Inputs
    model: str
    items: int
    versions: dict[str, str] = field(default_factory=dict)
    command: str = ""
    started: str = ""
    environment: Environment = field(default_factory=Environment)

    @classmethod
    def now(
        cls,
        settings: RunSettings,
        *,
        inputs: Inputs,
        model: str,
        items: int,
        environment: Environment,
    ) -> Self:
        """Return the manifest of a run that this process starts; see the fields."""
        return cls(
            schema=SCHEMA,
            kind=settings.kind,
            settings=json.loads(json.dumps(to_json(settings))),
            inputs=inputs,
            model=model,
            items=items,
            versions={
                "python": platform.python_version(),
                **{name: version(name) for name in _PACKAGES},
            },
            command=_command(),
            started=datetime.now(UTC).isoformat(timespec="seconds"),
            environment=environment,
        )

    def differences(self, other: Manifest) -> list[tuple[str, Any, Any]]:
        """Return what determines the results and differs, as (name, value, value of other)."""
        values, other_values = self._determining(), other._determining()
        return _differences(values, other_values, values.keys() | other_values.keys())

    def contradictions(
        self, known: Mapping[str, Any], inputs: Mapping[str, Any]
    ) -> list[tuple[str, Any, Any]]:
        """Return what differs from the settings and inputs that are known, as `differences` does.

        Args:
            known: some of the settings by name, which may hold further ones.
            inputs: some of the fields of `Inputs` by name.
        """
        values = {**inputs, **dict(_flat(json.loads(json.dumps(to_json(known)))))}
        return _differences(self._determining(), values, values.keys())

    @property
    def named_settings(self) -> dict[str, Any]:
        """Every setting by its dotted name, such as ``localization.theta``."""
        return dict(_flat(self.settings))

    def _determining(self) -> dict[str, Any]:
        return {"kind": self.kind, **to_json(self.inputs), **self.named_settings}


def _flat(settings: Mapping[str, Any], outer: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every setting by its dotted name, such as ``localization.theta``."""
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{outer}{name}.")
        else:
            yield f"{outer}{name}", value


def _differences(
    values: Mapping[str, Any], other_values: Mapping[str, Any], names: Iterable[str]
) -> list[tuple[str, Any, Any]]:
    return [
        (name, values.get(name), other_values.get(name))
        for name in sorted(names)
        if values.get(name) != other_values.get(name)
    ]


def _command() -> str:
    """Return the command line of this process, with bytes that are no text written out."""
    command = shlex.join([_program(), *sys.argv[1:]])
    return os.fsencode(command).decode(sys.getfilesystemencoding(), "backslashreplace")


def _program() -> str:
    """Return the name of this program, that of the package where it was started by python -m."""
    path = Path(sys.argv[0])
    return path.parent.name if path.name == "__main__.py" else path.name

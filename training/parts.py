"""The finished parts of a training, each stored once in float16 with a record of how it was made.

A part is taken from the work folder, else from `training/parts` where the repository keeps finished
ones, else trained. Everything that is trained later uses the stored, rounded weights.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import diffusers
import numpy as np
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from training.loop import Schedule, Trained
from unmemorize._files import atomic_write

logger = logging.getLogger(__name__)

SHIPPED = Path(__file__).parent / "parts"
"""Finished parts in the repository."""


@dataclass(frozen=True)
class Record:
    """How a part was made.

    Attributes:
        name: of the part.
        sha256: of its weights file.
        inputs: SHA-256 of everything that went into it, by name.
        schedule: steps, learning rate, seed and so on.
        seconds: wall-clock time of the training.
        threads: of torch; the result is the same only with as many.
        versions: of Python and the libraries that compute.
        curve: mean losses over each stretch of steps.
    """

    name: str
    sha256: str
    inputs: Mapping[str, str]
    schedule: Mapping[str, float]
    seconds: float
    threads: int
    versions: Mapping[str, str]
    curve: tuple[Mapping[str, float], ...]

    def save(self, path: Path) -> None:
        """Write the record as JSON, one stretch of the curve a line."""
        fields = asdict(self)
        curve = fields.pop("curve")
        head = json.dumps(fields, indent=1).removesuffix("\n}")
        lines = ",\n".join(f"  {json.dumps(dict(stretch))}" for stretch in curve)
        atomic_write(path, f'{head},\n "curve": [\n{lines}\n ]\n}}\n')

    @classmethod
    def load(cls, path: Path) -> Record:
        """Read a record."""
        fields = json.loads(path.read_text(encoding="utf-8"))
        return cls(**{**fields, "curve": tuple(fields["curve"])})


@dataclass(frozen=True)
class Part:
    """The stored weights of a part, in float16, and their record."""

    weights: Mapping[str, Tensor]
    record: Record


class Parts:
    """The parts of one training.

    Args:
        work: the folder of checkpoints and finished parts.
        shipped: where the repository keeps finished parts.
    """

    def __init__(self, work: Path, shipped: Path = SHIPPED) -> None:
        self.folder = work / "parts"
        self.folder.mkdir(parents=True, exist_ok=True)
        self._shipped = shipped
        self._used: list[Record] = []

    def get(
        self,
        name: str,
        schedule: Schedule,
        inputs: Mapping[str, str],
        train: Callable[[], Trained],
    ) -> Part:
        """A part: stored, shipped, or trained now.

        A stored part that was made from other inputs or under another schedule is not used.
        """
        settings = {key: float(value) for key, value in asdict(schedule).items()}
        for folder in (self.folder, self._shipped):
            part = self._read(folder, name)
            if part is None:
                continue
            if part.record.inputs == inputs and part.record.schedule == settings:
                if folder == self._shipped:
                    for suffix in ("safetensors", "json"):
                        shutil.copy(folder / f"{name}.{suffix}", self.folder)
                logger.info("%s: finished before, in %.0f s", name, part.record.seconds)
                self._used.append(part.record)
                return part
            logger.info("%s: the one in %s was made from other data or settings", name, folder)
        trained = train()
        file = self.folder / f"{name}.safetensors"
        partial = file.with_suffix(".part")
        save_file({key: _halved(tensor) for key, tensor in trained.weights.items()}, partial)
        os.replace(partial, file)
        record = Record(
            name=name,
            sha256=hashlib.sha256(file.read_bytes()).hexdigest(),
            inputs=dict(inputs),
            schedule=settings,
            seconds=round(trained.seconds, 1),
            threads=torch.get_num_threads(),
            versions=versions(),
            curve=trained.curve,
        )
        record.save(file.with_suffix(".json"))
        logger.info("%s: trained in %.0f s", name, record.seconds)
        self._used.append(record)
        return Part(load_file(file), record)

    def records(self) -> tuple[Record, ...]:
        """How each part was made that this training used or made, and earlier stages of these."""
        names = {record.name for record in self._used}
        firsts = [self.stored(f"{name}-stage-1") for name in sorted(names)]
        stages = [part.record for part in firsts if part and part.record.name not in names]
        return (*self._used, *stages)

    def stored(self, name: str) -> Part | None:
        """A finished part of the work folder or the repository, whatever it was made from."""
        return self._read(self.folder, name) or self._read(self._shipped, name)

    @staticmethod
    def _read(folder: Path, name: str) -> Part | None:
        file = folder / f"{name}.safetensors"
        if not file.with_suffix(".json").exists():
            return None
        return Part(load_file(file), Record.load(file.with_suffix(".json")))


def versions() -> dict[str, str]:
    """Python and the libraries that decide the result."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "transformers": transformers.__version__,
        "numpy": np.__version__,
    }


def _halved(tensor: Tensor) -> Tensor:
    """A tensor in float16, if it holds floating-point numbers; contiguous in any case."""
    return (tensor.half() if tensor.is_floating_point() else tensor).contiguous()

"""What differs between an edited folder and its base, held against what its neuron file says."""

from __future__ import annotations

import filecmp
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open

from unmemorize._errors import ExportError
from unmemorize.export._checkpoint import CARD, NEURONS, model_files
from unmemorize.export._rows import differing_rows, header, with_scaled_rows
from unmemorize.neurons import NeuronFile
from unmemorize.pipelines import Model, name_of_denoiser

_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif")


@dataclass(frozen=True)
class Change:
    """What differs from the base in one place, or should.

    Args:
        file: relative to the folders.
        key: of the tensor; empty where the whole file differs.
        rows: in which it differs; empty where it is missing, or of another shape or type.
        asked: whether this is what the neuron file says: these rows, and the values that they have now.
    """

    file: str
    key: str
    rows: tuple[int, ...]
    asked: bool = False


def changes(
    baked: str | Path, base: str | Path, model: Model, neurons: NeuronFile
) -> Iterator[Change]:
    """All differences between an edited folder and its base, and edits that are not there.

    What no program loads may differ: model card, licenses, pictures, and what git and the Hub put into folders.

    Args:
        baked: the edited folder.
        base: the folder it was made from.
        model: the base, loaded.
        neurons: what should be switched off.

    Raises:
        ExportError: a folder is missing or a file is damaged.
    """
    baked, base = Path(baked), Path(base)
    for folder in (baked, base):
        if not folder.is_dir():
            raise ExportError(f"{folder}: no such folder. Give two folders of diffusers models.")
    copied = set(model_files(base))
    names = {
        *copied,
        *(
            name
            for path in baked.rglob("*")
            if path.is_file() and not _harmless(name := path.relative_to(baked))
        ),
    }
    denoiser = Path(name_of_denoiser(model.pipe))
    rows = {
        f"{path}.{name}": indices
        for path, indices in neurons.neurons.layers.items()
        for name in ("weight", "bias")
    }
    for name in sorted(names):
        tensors = name.suffix == ".safetensors"
        asked = rows if tensors and name.parent == denoiser else {}
        if name not in copied or not (baked / name).is_file():
            yield Change(str(name), "", ())
        elif not asked and filecmp.cmp(base / name, baked / name, shallow=False):
            continue
        elif tensors:
            yield from _tensor_changes(baked / name, base / name, str(name), asked, neurons.scale)
        else:
            yield Change(str(name), "", ())


def _harmless(name: Path) -> bool:
    if name.parts[0].startswith((".git", ".cache")):
        return True
    return len(name.parts) == 1 and (
        name.name in (NEURONS, CARD) or name.stem == "LICENSE" or name.suffix.lower() in _PICTURES
    )


def _tensor_changes(
    baked: Path, base: Path, name: str, asked: Mapping[str, Sequence[int]], scale: float
) -> Iterator[Change]:
    first, second = header(base)[0], header(baked)[0]
    if first.get("__metadata__") != second.get("__metadata__"):
        yield Change(name, "__metadata__", ())
    with safe_open(base, framework="pt") as old, safe_open(baked, framework="pt") as new:
        for key in sorted((first.keys() | second.keys()) - {"__metadata__"}):
            if (
                key not in first
                or key not in second
                or any(first[key][what] != second[key][what] for what in ("shape", "dtype"))
            ):
                yield Change(name, key, ())
                continue
            before, after = old.get_tensor(key), new.get_tensor(key)
            rows = tuple(differing_rows(before, after))
            expected = with_scaled_rows(before, asked[key], scale) if key in asked else before
            right = not differing_rows(expected, after)
            if rows or not right:
                yield Change(name, key, rows, right)

"""What a hardening trains."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase

from unmemorize._errors import MitigationError
from unmemorize.generation import text_projections
from unmemorize.hardening._settings import HardeningSettings
from unmemorize.methods import LowRankWeights, Trained, WholeWeights, training, weighted_layers
from unmemorize.pipelines import Model

SOURCE = "hardening"


@contextmanager
def trained(model: Model, settings: HardeningSettings) -> Iterator[Trained]:
    """Let weights of a model be trained in place, and put them back at the end, bit by bit.

    Args:
        model: the model.
        settings: which weights, and of which rank.

    Raises:
        MitigationError: there are no such layers, or they cannot be trained.
    """
    with training(model, layers_of(model, settings.weights), "harden") as weights:
        rank = settings.rank
        if rank is None:
            yield WholeWeights(weights, SOURCE)
        else:
            yield LowRankWeights(weights, rank, SOURCE)


def layers_of(model: Model, weights: str) -> list[str]:
    """Return the paths of layers with weights that ``weights`` names, see `HardeningSettings`.

    Raises:
        MitigationError: there is none.
        EditError: "cross-attention" is named, and the model has none.
    """
    layers = weighted_layers(model)
    if weights == "all":
        return layers
    if weights == "cross-attention":
        attentions = {path.rpartition(".")[0] for path in text_projections(model)}
        return [path for path in layers if any(path.startswith(f"{each}.") for each in attentions)]
    named = [path for path in layers if fnmatchcase(path, weights)]
    if not named:
        raise MitigationError(
            f"weights {weights!r}: {model.name} has no layer of such a path. Use all, "
            f"cross-attention, or a pattern such as {layers[0].partition('.')[0]}*."
        )
    return named

"""Published values, to stand beside a comparison. None of them was measured by this package."""

from __future__ import annotations

from dataclasses import dataclass

from unmemorize.comparison._drawn import UNEDITED

_SD1 = "Stable Diffusion 1.4, 500 memorized prompts against 500 others"
_SD15 = "Stable Diffusion 1.5, 500 against 500"
_VM = "Stable Diffusion 1.4, verbatim prompts, 50 steps, 10 seeds"
_NEMO = "Hintersdorf et al. 2024, table 1"
_SELECTED = "Stable Diffusion 1.4, verbatim prompts whose unedited images copy (selected)"
_PADS = "Stable Diffusion 1.4, 458 prompts, SSCD to the unedited image of the same seed"


@dataclass(frozen=True, kw_only=True)
class Published:
    """A published value of one detector or method.

    Args:
        name: of the detector or method in this package.
        setting: model, prompts and what else it depends on.
        source: where it was published.
        by_others: whether it was measured by others than those who proposed the method, or is known
            second-hand.
        auroc, tpr: of detectors, the latter at a false positive rate of 1 %.
        copy, alignment: SSCD and A_CLIP under methods.
    """

    name: str
    setting: str
    source: str
    by_others: bool = False
    auroc: float | None = None
    tpr: float | None = None
    copy: float | None = None
    alignment: float | None = None


def _detector(
    name: str, auroc: float, tpr: float, setting: str, source: str, *, by_others: bool = False
) -> Published:
    return Published(
        name=name, auroc=auroc, tpr=tpr, setting=setting, source=source, by_others=by_others
    )


def _method(
    name: str,
    copy: float,
    alignment: float | None,
    setting: str,
    source: str,
    *,
    by_others: bool = False,
) -> Published:
    return Published(
        name=name, copy=copy, alignment=alignment, setting=setting, source=source,
        by_others=by_others,
    )  # fmt: skip


PUBLISHED: tuple[Published, ...] = (
    _detector("seed-similarity", 0.98, 0.876, f"{_SD1}, 10 seeds", "Hintersdorf et al. 2024"),
    _detector("noise-magnitude", 0.994, 0.982, f"{_SD1}, 4 seeds, all steps", "Wen et al. 2024"),
    _detector(
        "noise-magnitude", 0.976, 0.896, f"{_SD1}, 1 seed, first step",
        "Asthana and Belagiannis 2026", by_others=True,
    ),
    _detector("dsm", 0.9647, 0.834, f"{_SD15}, 1 seed, step 0 to 1", "ICML 2026 submission"),
    _detector("hessian-difference", 0.9759, 0.828, f"{_SD15}, 1 seed", "ICML 2026 submission"),
    _detector(
        "anisotropy", 0.999, 0.984, f"{_SD1}, 4 seeds, fitted weights",
        "Asthana and Belagiannis 2026", by_others=True,
    ),
    _detector("sharpness", 0.987, 0.908, f"{_SD1}, 1 seed", "Jeon et al. 2025", by_others=True),
    _detector(
        "score-difference", 0.997, 0.982, "Stable Diffusion 1.4", "Kim and Lee 2026",
        by_others=True,
    ),
    _detector(
        "curvature", 0.997, 0.982, "Stable Diffusion 1.4", "Kim and Lee 2026", by_others=True
    ),
    _detector(
        "layer-entropy", 0.846, 0.116, f"{_SD1}, 1 seed", "Asthana and Belagiannis 2026",
        by_others=True,
    ),
    _detector("bright-ending", 0.886, 0.390, f"{_SD1}", "second-hand", by_others=True),
    _method(UNEDITED, 0.83, 0.32, _VM, _NEMO),
    _method("neurons-greedy", 0.09, 0.31, _VM, _NEMO),
    _method(
        "wanda", 0.20, None, "Stable Diffusion 1.4, verbatim prompts", "arXiv 2507.16880",
        by_others=True,
    ),
    _method("random-tokens", 0.59, 0.31, f"{_VM}, 1 token", _NEMO, by_others=True),
    _method("random-tokens", 0.09, 0.30, f"{_VM}, 4 tokens", _NEMO, by_others=True),
    _method("random-tokens", 0.03, 0.28, f"{_VM}, 10 tokens", _NEMO, by_others=True),
    _method("embedding", 0.04, 0.30, _VM, _NEMO, by_others=True),
    _method("embedding", 0.115, 0.267, _SELECTED, "GUARD 2026", by_others=True),
    _method("attention", 0.08, 0.31, _VM, _NEMO, by_others=True),
    _method("attention", 0.113, 0.258, _SELECTED, "GUARD 2026", by_others=True),
    _method("attenuation", 0.109, 0.282, _SELECTED, "GUARD 2026", by_others=True),
    _method("guard", 0.079, 0.266, _SELECTED, "GUARD 2026", by_others=True),
    _method("pads", 0.10, 0.31, f"{_PADS}, 70 % of pads", "arXiv 2605.02908", by_others=True),
    _method(
        "repad", 0.08, 0.31, f"{_PADS}, end token zeroed", "arXiv 2605.02908", by_others=True
    ),
    _method(
        "noise-sample", 0.2265, 0.2647, "Stable Diffusion 1.4, target norm .9", "Han et al. 2025"
    ),
)  # fmt: skip
"""Values of papers, as docs/detectors.md and docs/methods.md name them. Settings differ, so they
compare neither with each other nor with ours."""

import json
from pathlib import Path

import numpy as np
import pytest
from diffusers import DiffusionPipeline

from conftest import PROMPTS, make_pipeline
from unmemorize import Model, NoiseSettings, Threshold, ThresholdError, calibrate_threshold
from unmemorize._similarity import make_probe, noise_differences, pairwise_similarity

SETTINGS = NoiseSettings(seeds=4)


def pairs(pipe: DiffusionPipeline) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Similarity of all pairs by prompt, (prompts, 6)."""
    model = Model(pipe)
    rows = []
    for text in PROMPTS:
        matrix = pairwise_similarity(noise_differences(model, make_probe(model, model.encode([text]), SETTINGS))).double().numpy()
        rows.append([matrix[i, j] for i in range(4) for j in range(i + 1, 4)])
    return np.array(rows)


def test_both_reductions_against_numpy(pipe: DiffusionPipeline) -> None:
    values = pairs(pipe)
    over_pairs = calibrate_threshold(pipe, PROMPTS, settings=SETTINGS)
    assert over_pairs.tau == pytest.approx(values.mean() + values.std(ddof=1), abs=1e-6)
    over_prompts = calibrate_threshold(pipe, PROMPTS, settings=SETTINGS, reduction="prompts", deviations=2)
    highest = values.max(1)
    assert over_prompts.tau == pytest.approx(highest.mean() + 2 * highest.std(ddof=1), abs=1e-6)
    assert over_prompts.highest == pytest.approx(tuple(highest), abs=1e-6)
    means = values.mean(1)
    assert over_pairs.tau_seeds == pytest.approx(means.mean() + 2 * means.std(ddof=1), abs=1e-6)
    assert (over_pairs.kernel, over_pairs.reduction, over_prompts.reduction) == (3, "pairs", "prompts")


def test_file_round_trip(pipe: DiffusionPipeline, tmp_path: Path) -> None:
    threshold = calibrate_threshold(pipe, PROMPTS, settings=SETTINGS)
    threshold.save(tmp_path / "t.json")
    assert Threshold.load(tmp_path / "t.json") == threshold


def test_other_models_and_settings_are_refused(pipe: DiffusionPipeline) -> None:
    threshold = calibrate_threshold(pipe, PROMPTS, settings=SETTINGS)
    threshold.check(Model(pipe), SETTINGS)
    with pytest.raises(ThresholdError, match=r"calibrated with guidance=0\.0, but this run has guidance=7"):
        threshold.check(Model(pipe), NoiseSettings(seeds=4, guidance=7))
    with pytest.raises(ThresholdError, match="another model"):
        threshold.check(Model(make_pipeline(seed=1)), SETTINGS)


def test_bad_calibrations_are_refused(pipe: DiffusionPipeline) -> None:
    with pytest.raises(ThresholdError, match="at least 2"):
        calibrate_threshold(pipe, PROMPTS[:1])
    with pytest.raises(ThresholdError, match="reduction 'mean'"):
        calibrate_threshold(pipe, PROMPTS, reduction="mean")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 1}, "not a threshold file"),
        ({"tau": "high"}, "not numbers"),
        ({"settings": {"seeds": 1}}, "malformed"),
        ({"extra": 1}, "malformed"),
    ],
)
def test_malformed_files_are_refused(pipe: DiffusionPipeline, tmp_path: Path, change: dict[str, object], message: str) -> None:
    path = tmp_path / "t.json"
    calibrate_threshold(pipe, PROMPTS, settings=SETTINGS).save(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ThresholdError, match=message):
        Threshold.load(path)

"""Where localization spends its denoiser samples and its time, on the memorized prompts of the bundled model.

Prints medians over the prompts and, as its last line, the ratios: detection and selection against refinement, and how many denoiser
samples a localization costs for each one of detection.
"""

from __future__ import annotations

import statistics as stats
import time

import unmemorize as um
from unmemorize._similarity import highest_similarity, make_probe, noise_differences, pairwise_similarity
from unmemorize._statistics import activations
from unmemorize._value_layers import select_value_layers
from unmemorize.localization._evaluator import Evaluator
from unmemorize.localization._refinement import refine
from unmemorize.localization._selection import select

PROMPTS = 12


def main() -> None:
    pipe = um.load_pipeline("testbed", device="cpu")
    model = um.Model(pipe)
    statistics, threshold = um.Statistics.load(um.testbed.statistics_path()), um.Threshold.load(um.testbed.threshold_path())
    settings = um.LocalizationSettings(noise=threshold.settings, criterion=um.testbed.defaults()["criterion"])
    tau = threshold.of_criterion(settings.criterion)
    searched = select_value_layers(model.value_layers)
    rows: list[dict[str, float]] = []
    entries = [entry for entry in um.testbed.planted() if entry.neurons]
    for entry in entries[:PROMPTS]:
        began = time.perf_counter()
        probe = make_probe(model, model.encode([entry.prompt.text]), settings.noise)
        differences = noise_differences(model, probe)
        kept = (highest_similarity(pairwise_similarity(differences)) > threshold.tau).nonzero().flatten().tolist()
        detected = time.perf_counter()
        if not kept:
            continue
        evaluator = Evaluator(model, probe.keep(kept), differences[kept], settings)
        activation = {path: value[0] for path, value in activations(model, probe.text).items() if path in searched}
        selection = select(evaluator, statistics.z_scores(activation), activation, tau, settings)
        selected, samples = time.perf_counter(), evaluator.evaluations
        refine(evaluator, selection, tau, settings)
        rows.append(
            {
                "detection samples": settings.noise.seeds,
                "selection samples": samples,
                "refinement samples": evaluator.evaluations - samples,
                "detection seconds": detected - began,
                "selection seconds": selected - detected,
                "refinement seconds": time.perf_counter() - selected,
            }
        )
    median = {name: stats.median(row[name] for row in rows) for name in rows[0]}
    print(f"medians over {len(rows)} memorized prompts")
    for name, value in median.items():
        print(f"  {name:20} {value:.3g}")
    whole = sum(value for name, value in median.items() if name.endswith("seconds"))
    cost = sum(value for name, value in median.items() if name.endswith("samples")) / median["detection samples"]
    print(
        f"ratios refinement_share_of_time={median['refinement seconds'] / whole:.2f} localization_samples_per_detection_sample={cost:.1f}"
    )


if __name__ == "__main__":
    main()

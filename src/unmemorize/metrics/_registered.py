"""The metrics that are available: ours, and those that other packages register."""

from __future__ import annotations

import math
from collections.abc import Mapping

from unmemorize._errors import MetricError
from unmemorize._registry import Registry
from unmemorize.metrics._metric import Instruments, Metric, MetricFactory, PromptImages, Values

METRICS = Registry[MetricFactory](
    "unmemorize.metrics",
    {
        "sscd-orig": "unmemorize.metrics._copies:SscdOrig",
        "masked-copy": "unmemorize.metrics._masked:MaskedCopy",
        "sscd-gen": "unmemorize.metrics._copies:SscdGen",
        "d-sscd": "unmemorize.metrics._copies:Diversity",
        "a-clip": "unmemorize.metrics._clip_metric:a_clip",
        "pixel-correlation": "unmemorize.metrics._pixel_correlation:PixelCorrelation",
    },
    MetricError,
)
"""Metrics by name, in the order of summaries."""


def make_metrics(instruments: Instruments) -> dict[str, Metric]:
    """Make all registered metrics that these instruments allow, by name.

    Raises:
        MetricError: a metric cannot be imported, or is registered under another name than its own.
    """
    metrics = {}
    for name in METRICS.names():
        metric = METRICS.get(name)(instruments)
        if metric is None:
            continue
        if metric.name != name:
            raise MetricError(
                f"{name}: the metric registered under this name calls itself {metric.name}. "
                "Register it under its own name."
            )
        metrics[name] = metric
    return metrics


def measured(metrics: Mapping[str, Metric], images: PromptImages) -> dict[str, Values]:
    """Return the values of all metrics that apply to the images of a prompt.

    Raises:
        MetricError: a metric returns another number of values than there are images, or a value
            that is not finite.
    """
    found: dict[str, Values] = {}
    for name, metric in metrics.items():
        values = metric(images)
        if values is None:
            continue
        each = values if isinstance(values, tuple) else (values,)
        if isinstance(values, tuple) and len(values) != len(images.generated):
            raise MetricError(
                f"{name}: {len(values)} values for {len(images.generated)} images. "
                "A metric returns one value for each image, or a single number."
            )
        if not all(map(math.isfinite, each)):
            raise MetricError(
                f"{name}: returns {each}, not finite numbers. A metric that does not apply "
                "returns None."
            )
        found[name] = values
    return found

"""The metrics that are available: ours, and those that other packages register."""

from __future__ import annotations

from unmemorize._errors import MetricError
from unmemorize._registry import Registry
from unmemorize.metrics._metric import Instruments, Metric, MetricFactory

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

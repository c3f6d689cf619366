"""How much is still copied, and how diverse, aligned and good the images are."""

from unmemorize.metrics._alignment import ClipAlignment
from unmemorize.metrics._copies import copy_scores, pixel_correlation
from unmemorize.metrics._descriptor import (
    BundledDescriptor,
    CopyNet,
    Descriptor,
    caveat_of,
    usual_descriptor,
)
from unmemorize.metrics._detection import Separation, auroc, tpr_at_fpr
from unmemorize.metrics._download import download, fetch_images
from unmemorize.metrics._evaluation import evaluate_all
from unmemorize.metrics._images import have_references, image_files, read_references
from unmemorize.metrics._masked import SMALLEST_SHARE as SMALLEST_LAYOUT
from unmemorize.metrics._masked import distinct_images, layout_mask, masked_copy_scores
from unmemorize.metrics._medians import MedianName
from unmemorize.metrics._metric import Instrument, Instruments, Metric, PromptImages, Values
from unmemorize.metrics._pixel_correlation import centred_correlation
from unmemorize.metrics._quality import FeatureExtractor, InceptionFeatures, quality
from unmemorize.metrics._quality_sets import (
    QualityRecord,
    fitting_quality,
    quality_all,
    read_quality,
)
from unmemorize.metrics._read_image import read_image, to_rgb
from unmemorize.metrics._records import (
    EvaluationRun,
    MeasuredMetric,
    PromptMetrics,
    References,
    read_metrics,
)
from unmemorize.metrics._references import MatchedReferences, match_references
from unmemorize.metrics._registered import METRICS, make_metrics, measured
from unmemorize.metrics._reproduced import reproduced_mask, reproduced_shares
from unmemorize.metrics._scripted import SSCD_SHA256, SSCD_URL, FileDescriptor
from unmemorize.metrics._summary import Summary, summarize, wilson_interval

__all__ = [
    "METRICS",
    "SMALLEST_LAYOUT",
    "SSCD_SHA256",
    "SSCD_URL",
    "BundledDescriptor",
    "ClipAlignment",
    "CopyNet",
    "Descriptor",
    "EvaluationRun",
    "FeatureExtractor",
    "FileDescriptor",
    "InceptionFeatures",
    "Instrument",
    "Instruments",
    "MatchedReferences",
    "MeasuredMetric",
    "MedianName",
    "Metric",
    "PromptImages",
    "PromptMetrics",
    "QualityRecord",
    "References",
    "Separation",
    "Summary",
    "Values",
    "auroc",
    "caveat_of",
    "centred_correlation",
    "copy_scores",
    "distinct_images",
    "download",
    "evaluate_all",
    "fetch_images",
    "fitting_quality",
    "have_references",
    "image_files",
    "layout_mask",
    "make_metrics",
    "masked_copy_scores",
    "match_references",
    "measured",
    "pixel_correlation",
    "quality",
    "quality_all",
    "read_image",
    "read_metrics",
    "read_quality",
    "read_references",
    "reproduced_mask",
    "reproduced_shares",
    "summarize",
    "to_rgb",
    "tpr_at_fpr",
    "usual_descriptor",
    "wilson_interval",
]

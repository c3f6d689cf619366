"""How much is still copied, how diverse and how well aligned the images are, and how such numbers are summed up."""

from unmemorize.metrics._alignment import ClipAlignment
from unmemorize.metrics._copies import copy_scores, diversity, pixel_correlation, seedwise_similarity
from unmemorize.metrics._descriptor import BundledDescriptor, Descriptor
from unmemorize.metrics._summary import Summary, summarize, wilson_interval

__all__ = [
    "BundledDescriptor",
    "ClipAlignment",
    "Descriptor",
    "Summary",
    "copy_scores",
    "diversity",
    "pixel_correlation",
    "seedwise_similarity",
    "summarize",
    "wilson_interval",
]

"""How much is still copied, how diverse, aligned and good the images are, and how such numbers are summed up."""

from unmemorize.metrics._alignment import ClipAlignment
from unmemorize.metrics._copies import copy_scores, diversity, pixel_correlation, seedwise_similarity
from unmemorize.metrics._descriptor import BundledDescriptor, Descriptor
from unmemorize.metrics._detection import Separation, auroc, tpr_at_fpr
from unmemorize.metrics._images import References, image_files, numbered_images, read_image, read_references
from unmemorize.metrics._masked import layout_mask, masked_copy_scores
from unmemorize.metrics._quality import FeatureExtractor, InceptionFeatures, Quality, features_of, quality
from unmemorize.metrics._scripted import SSCD_SHA256, SSCD_URL, FileDescriptor
from unmemorize.metrics._summary import Summary, summarize, wilson_interval

__all__ = [
    "SSCD_SHA256",
    "SSCD_URL",
    "BundledDescriptor",
    "ClipAlignment",
    "Descriptor",
    "FeatureExtractor",
    "FileDescriptor",
    "InceptionFeatures",
    "Quality",
    "References",
    "Separation",
    "Summary",
    "auroc",
    "copy_scores",
    "diversity",
    "features_of",
    "image_files",
    "layout_mask",
    "masked_copy_scores",
    "numbered_images",
    "pixel_correlation",
    "quality",
    "read_image",
    "read_references",
    "seedwise_similarity",
    "summarize",
    "tpr_at_fpr",
    "wilson_interval",
]

"""Step 2: noise differences, detectors, and the calibration of their thresholds."""

from unmemorize.detection._calibration import USUAL_RATE, Calibration, calibrate_threshold
from unmemorize.detection._cascade import Cascade
from unmemorize.detection._conformal import conformal_quantile, prompts_needed, smallest_rate
from unmemorize.detection._detect import (
    detect,
    detect_prompts,
    detection_of,
    memorized_seeds,
)
from unmemorize.detection._detector import Detector, Score
from unmemorize.detection._detectors import DETECTORS
from unmemorize.detection._kept import default_threshold, default_threshold_path
from unmemorize.detection._noise import (
    NoiseSettings,
    Probe,
    Protocol,
    make_probe,
    noise_differences,
)
from unmemorize.detection._records import Detection
from unmemorize.detection._runs import (
    DETECTIONS,
    DetectionRun,
    DetectTask,
    detect_all,
    read_detections,
    write_detections_csv,
)
from unmemorize.detection._similarity import (
    SIMILARITIES,
    SimilarityName,
    pairs_of,
    pairwise_similarity,
    published_similarity,
    similarity,
)
from unmemorize.detection._threshold import (
    SEED_SIMILARITY,
    DetectionLevel,
    LocalizationLevel,
    Threshold,
)
from unmemorize.detection._trace import Trace

__all__ = [
    "DETECTIONS",
    "DETECTORS",
    "SEED_SIMILARITY",
    "SIMILARITIES",
    "USUAL_RATE",
    "Calibration",
    "Cascade",
    "DetectTask",
    "Detection",
    "DetectionLevel",
    "DetectionRun",
    "Detector",
    "LocalizationLevel",
    "NoiseSettings",
    "Probe",
    "Protocol",
    "Score",
    "SimilarityName",
    "Threshold",
    "Trace",
    "calibrate_threshold",
    "conformal_quantile",
    "default_threshold",
    "default_threshold_path",
    "detect",
    "detect_all",
    "detect_prompts",
    "detection_of",
    "make_probe",
    "memorized_seeds",
    "noise_differences",
    "pairs_of",
    "pairwise_similarity",
    "prompts_needed",
    "published_similarity",
    "read_detections",
    "similarity",
    "smallest_rate",
    "write_detections_csv",
]

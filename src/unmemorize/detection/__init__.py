"""Step 2: noise differences, detectors, and the calibration of their thresholds."""

from unmemorize.detection._anisotropy import Anisotropy
from unmemorize.detection._bright_ending import BrightEnding
from unmemorize.detection._calibration import (
    USUAL_RATE,
    Calibration,
    calibrate_threshold,
    calibration_prompts,
    default_detector,
    weighed,
    with_units,
)
from unmemorize.detection._cascade import Cascade, Stop
from unmemorize.detection._conformal import conformal_quantile, prompts_needed, smallest_rate
from unmemorize.detection._consecutive import ConsecutiveDifference
from unmemorize.detection._detect import (
    detect,
    detect_prompts,
    detection_of,
    memorized_seeds,
)
from unmemorize.detection._detector import (
    Detector,
    Locating,
    Score,
    Weighing,
    settings_of,
    watched_by,
)
from unmemorize.detection._detectors import DETECTORS, as_detector
from unmemorize.detection._entropy import AttentionEntropy, LayerEntropy
from unmemorize.detection._false_discovery import (
    Discoveries,
    conformal_p_value,
    discoveries,
    fewest_discoveries,
)
from unmemorize.detection._kept import BUNDLED, default_threshold, default_threshold_path
from unmemorize.detection._moment import Moment
from unmemorize.detection._noise import (
    NoiseSettings,
    Probe,
    Protocol,
    make_probe,
    noise_differences,
)
from unmemorize.detection._noise_magnitude import LateNoiseMagnitude, NoiseMagnitude
from unmemorize.detection._records import Detection
from unmemorize.detection._region_maps import Curvature, ScoreDifference
from unmemorize.detection._regions import REGION_SAMPLES, memorized_region
from unmemorize.detection._runs import (
    DETECTIONS,
    DetectionRun,
    DetectTask,
    detect_all,
    discoveries_of,
    read_detections,
    write_detections_csv,
)
from unmemorize.detection._seed_similarity import SeedSimilarity
from unmemorize.detection._sharpness import HessianDifference, Sharpness
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
from unmemorize.detection._watched import AttentionRecord
from unmemorize.detection._white_box import WhiteBox

__all__ = [
    "BUNDLED",
    "DETECTIONS",
    "DETECTORS",
    "REGION_SAMPLES",
    "SEED_SIMILARITY",
    "SIMILARITIES",
    "USUAL_RATE",
    "Anisotropy",
    "AttentionEntropy",
    "AttentionRecord",
    "BrightEnding",
    "Calibration",
    "Cascade",
    "ConsecutiveDifference",
    "Curvature",
    "DetectTask",
    "Detection",
    "DetectionLevel",
    "DetectionRun",
    "Detector",
    "Discoveries",
    "HessianDifference",
    "LateNoiseMagnitude",
    "LayerEntropy",
    "LocalizationLevel",
    "Locating",
    "Moment",
    "NoiseMagnitude",
    "NoiseSettings",
    "Probe",
    "Protocol",
    "Score",
    "ScoreDifference",
    "SeedSimilarity",
    "Sharpness",
    "SimilarityName",
    "Stop",
    "Threshold",
    "Trace",
    "Weighing",
    "WhiteBox",
    "as_detector",
    "calibrate_threshold",
    "calibration_prompts",
    "conformal_p_value",
    "conformal_quantile",
    "default_detector",
    "default_threshold",
    "default_threshold_path",
    "detect",
    "detect_all",
    "detect_prompts",
    "detection_of",
    "discoveries",
    "discoveries_of",
    "fewest_discoveries",
    "make_probe",
    "memorized_region",
    "memorized_seeds",
    "noise_differences",
    "pairs_of",
    "pairwise_similarity",
    "prompts_needed",
    "published_similarity",
    "read_detections",
    "settings_of",
    "similarity",
    "smallest_rate",
    "watched_by",
    "weighed",
    "with_units",
    "write_detections_csv",
]

"""What a report must say, computed once more from the records in a pack, whatever run it is of."""

from __future__ import annotations

from unmemorize.report._recomputed_image_audit import recompute_image_audit
from unmemorize.report._recomputed_mitigation import recompute_mitigation
from unmemorize.report._recomputed_values import Files, Recomputed, parsed

_KINDS = {"mitigation": recompute_mitigation, "image-audit": recompute_image_audit}


def recompute(files: Files) -> Recomputed:
    """Compute what follows from the records of a run.

    Args:
        files: the files of its pack.

    Raises:
        KeyError, ValueError: a record is missing or damaged, or runs of this kind have no packs.
    """
    kind = str(parsed("manifest.json", files["manifest.json"]).get("kind"))
    if kind not in _KINDS:
        raise ValueError(f"manifest.json: is of kind {kind}, not {' or '.join(_KINDS)}")
    return _KINDS[kind](files)

"""Ways to take memorized images out: each turns what localization found into an `Edit`."""

from unmemorize.mitigation._mitigation import MITIGATIONS, Mitigation

__all__ = ["MITIGATIONS", "Mitigation"]

"""Fine-tuning against attacks, so that they no longer bring memorized images back."""

from unmemorize.hardening._forecast import forecast_hardening
from unmemorize.hardening._harden import AUDIT, harden_all, hardening_totals, open_hardening
from unmemorize.hardening._public import harden
from unmemorize.hardening._result import AttackOutcome, HardeningResult, RoundOutcome
from unmemorize.hardening._settings import HardeningInputs, HardeningRun, HardeningSettings

__all__ = [
    "AUDIT",
    "AttackOutcome",
    "HardeningInputs",
    "HardeningResult",
    "HardeningRun",
    "HardeningSettings",
    "RoundOutcome",
    "forecast_hardening",
    "harden",
    "harden_all",
    "hardening_totals",
    "open_hardening",
]

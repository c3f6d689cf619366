"""Attacks that try to bring an image back after an edit."""

from unmemorize.audit._attack import ATTACKS, Attack, Candidate, State, Target, Trial, checkpoints
from unmemorize.audit._bench import Bench

__all__ = ["ATTACKS", "Attack", "Bench", "Candidate", "State", "Target", "Trial", "checkpoints"]

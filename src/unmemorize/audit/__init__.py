"""Attacks that try to bring an image back after an edit."""

from unmemorize.audit._attack import ATTACKS, Attack, Budget, Candidate

__all__ = ["ATTACKS", "Attack", "Budget", "Candidate"]

"""A finished audit written by hand, in which all numbers differ."""

from __future__ import annotations

import json
from pathlib import Path

from unmemorize import AuditResult, AuditSettings, Edit, Run
from unmemorize.audit import AttackOutcome, AuditRun, BudgetVerdict, ImageOutcome, edit_text
from unmemorize.audit._settings import ArmName
from unmemorize.audit._survival import TriggerCurve
from unmemorize.runs import Inputs

WORDS = "no cheaper than never-trained images"


def audited_run(folder: Path, edit: Edit | None) -> Run:
    """Write an audit of one image by one attack at two budgets."""
    settings = AuditRun(
        settings=AuditSettings.quick(),
        edit=edit_text(edit),
        controls=("1" * 64,),
        twins=(),
        captions="2" * 64,
        descriptor="3" * 64,
    )
    run = Run.open(folder, settings, inputs=Inputs(fingerprint="f"), model="a model", items=7)
    verdicts = tuple(
        BudgetVerdict(
            attack="L4",
            budget=budget,
            images=6,
            triggered=triggered,
            bound=0.4,
            tau=0.55,
            false_triggers=0.0476,
            controls=20,
            paired=False,
            medians={"edited": 0.31 + budget / 100, "never-trained": 0.29},
            difference=0.02,
            interval=None,
            p=0.6,
            p_family=1.0,
            p_equivalence=0.2,
            half=0.1,
            seven_tenths=0.0,
            verdict=WORDS,
        )
        for budget, triggered in ((5, 0), (25, 1))
    )
    of_arms: tuple[tuple[ArmName, tuple[float, ...], int | None], ...] = (
        ("edited", (0.2, 0.6), 25),
        ("never-trained", (0.4, 0.1), None),
    )
    images = tuple(
        ImageOutcome(
            arm=arm,
            attack="L4",
            index=3,
            prompt="a cat",
            scores=scores,
            triggered_at=triggered_at,
            work=None,
            image="x.png",
        )
        for arm, scores, triggered_at in of_arms
    )
    result = AuditResult(
        never_trained="20 photographs",
        attacks=(
            AttackOutcome(
                attack="L4",
                curves={"edited": TriggerCurve((), ())},
                earlier=0.5,
                verdicts=verdicts,
            ),
        ),
        images=images,
        impossible={"L2": "no tokenizer"},
        not_tried=("L6",),
        ceiling_failed=None,
        free_numbers=(10, 20),
        fixed=(),
    )
    run.write("audit.json", json.dumps(result.to_json()))
    return run

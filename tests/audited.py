"""Finished audits written by hand, in which all numbers differ."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

from colours import noise
from unmemorize import AuditResult, AuditSettings, Edit, ImageAuditResult, Run
from unmemorize.audit import (
    AttackOutcome,
    AuditRun,
    BudgetVerdict,
    ImageAuditRun,
    ImageOutcome,
    edit_text,
    read_image_scores,
)
from unmemorize.audit._image_first import judged_images
from unmemorize.audit._records import AttackRecord
from unmemorize.audit._settings import ArmName
from unmemorize.audit._survival import TriggerCurve
from unmemorize.runs import Inputs, StoredImage, hash_of_file

WORDS = "no cheaper than never-trained images"


def audited_run(folder: Path, edit: Edit | None, fingerprint: str = "f") -> Run:
    """Write an audit of one image by one attack at two budgets, on a model with a fingerprint."""
    settings = AuditRun(
        settings=AuditSettings.quick(),
        edit=edit_text(edit),
        controls=("1" * 64,),
        twins=(),
        captions="2" * 64,
        descriptor="3" * 64,
        joined=("5, 6",),
    )
    inputs = Inputs(fingerprint=fingerprint)
    run = Run.open(folder, settings, inputs=inputs, model="a model", items=7)
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
            best=tuple(score + 0.15 for score in scores) if arm == "edited" else (),
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
        remarks=("Prompts 5, 6 show the same image.",),
    )
    run.write("audit.json", json.dumps(result.to_json()))
    return run


def image_audit_run(folder: Path) -> tuple[Run, ImageAuditResult]:
    """Write an audit of three images, which lie beside its folder, against 24 controls.

    The first is copied after 25 steps, the second after 5, the third never; so are two controls
    after 25 steps.
    """
    files = [folder.parent / f"{name}.png" for name in ("late", "early", "never")]
    for seed, path in enumerate(files):
        noise(seed, (32, 32)).save(path)
    attack = replace(AuditSettings.quick(), steps=(0, 5, 25), starts=("other",))
    settings = ImageAuditRun(
        settings=attack.image_first(),
        rate=0.1,
        images=tuple(map(hash_of_file, files)),
        edit="",
        controls=tuple(f"{number:064}" for number in range(24)),
        captions="2" * 64,
        descriptor="3" * 64,
    )
    run = Run.open(folder, settings, inputs=Inputs(fingerprint="f"), model="a model", items=3)
    asked = [(0.05, 0.4, 0.7), (0.1, 0.8, 0.91), (0.07, 0.1, 0.19)]
    controls = [(0.0, 0.1, 0.2 + number / 1000) for number in range(22)]
    for arm, scores in (
        ("edited", asked),
        ("never-trained", [*controls, (0.0, 0.2, 0.52), (0.0, 0.2, 0.53)]),
    ):
        for target, courses in enumerate(scores):
            for place, (budget, score) in enumerate(zip((0, 5, 25), courses, strict=True)):
                image = f"{arm}-L4/{target:05}-{budget:04}.png"
                record = AttackRecord(
                    target=target,
                    prompt="",
                    start="other",
                    seed=0,
                    budget=budget,
                    samples=24 * budget + target,
                    seconds=1.0,
                    scores=(score,),
                    measure="image",
                    image=image,
                )
                run.append(f"{arm}-L4", 3 * target + place, asdict(record))
                (run.folder / image).parent.mkdir(exist_ok=True)
                noise(100 + target, (32, 32)).save(run.folder / image)
    words = "other images, said to be never trained on (weaker than a twin)"
    stored = [StoredImage.of(file, run.folder) for file in files]
    result = judged_images(stored, *read_image_scores(run), words, 0.1)
    run.write("images.json", json.dumps(result.to_json()))
    return run, result

"""Which level tells a copy of a template: that of ordinary images, or that of the twins' images.

python benchmarks/twins.py [--ordinary N]

For each template it prints the levels that one in a thousand images of ordinary captions exceeds,
one by the copy descriptor and one by the layout, and the scores of four images by the twin that
never saw the template and by the model itself. N images of ordinary captions (default 1,000) take
20 minutes on one core.
"""

from __future__ import annotations

import argparse

import torch

import unmemorize as um
from unmemorize.metrics import BundledDescriptor, read_references
from unmemorize.mitigation._copy_test import Null, copy_tests
from unmemorize.testbed import _check_images
from unmemorize.testbed._check import IMAGES
from unmemorize.testbed._findings import Studio


def main(ordinary: int) -> None:
    model = um.Model.load("testbed", dtype="float32")
    defaults = um.testbed.defaults()
    settings = um.GenerationSettings(
        images=IMAGES, steps=defaults["steps"], guidance=defaults["guidance"]
    )
    studio, descriptor = Studio(model, settings), BundledDescriptor()
    images = studio.shoot_each(um.testbed.captions("test")[:ordinary])
    null = Null(torch.cat([descriptor([image]) for image in images]), None, images)
    twins = {half: _check_images.twin_studio(half, studio) for half in ("a", "b")}
    above: dict[str, list[bool]] = {}
    for entry in um.testbed.planted():
        twin = twins[entry.half]
        if entry.kind != "TM" or entry.mode == "rare" or twin is None:
            continue
        never, own = twin.shoot(entry.prompt.text), studio.shoot(entry.prompt.text)
        training = read_references(entry.prompt.images).images
        for test in copy_tests(entry.prompt, training, own, null, descriptor):
            print(f"{entry.prompt.text}, {test.measure}: level {test.level:.3f}")
            for name, shots in (("twin", never), ("model", own)):
                scores = test.scores(shots, descriptor)
                print(f"  {name}:", " ".join(f"{score:.3f}" for score in scores))
                key = f"{test.measure}, {name}"
                above.setdefault(key, []).extend(score > test.level for score in scores)
    for name, found in above.items():
        print(f"{name}: {sum(found)} of {len(found)} above the level")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ordinary", type=int, default=1000, help="images of ordinary captions")
    main(parser.parse_args().ordinary)

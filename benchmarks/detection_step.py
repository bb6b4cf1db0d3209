"""What a training step of the detector costs over torchvision's reference loop.

The same Faster R-CNN on the same batch, with the same optimizer and the same random draws: under
Lightning, as a user has it, and as torchvision's `references/detection` trains it (forward, sum of
the losses, `zero_grad`, `backward`, `step`). They take turns step by step, since the machine's own
speed drifts: after each step of the Trainer the other network makes one. Our time is all that
passes between two of those, hooks and the loop included. Ratios are taken within a pair of steps,
of the clock on the wall and of this process's own time, which a busy machine disturbs less; the
median is told. Both losses must stay equal, or the two would not be doing the same.

    python benchmarks/detection_step.py            # a table
    python benchmarks/detection_step.py --json     # and a last line of JSON
"""

import argparse
import copy
import json
import logging
import os
import time
import warnings

os.environ.setdefault("OMP_NUM_THREADS", "1")

import lightning.pytorch as pl
import numpy as np
import torch

from lit_imgproc.models.detection.module import Detector
from lit_imgproc.models.detection.networks import faster_rcnn
from lit_imgproc.optim import SGD

SIZE, BATCH, OBJECTS, CLASSES = 160, 2, 8, 3
MEAN, STD = [0.5] * 3, [0.25] * 3
WARM_UP = 5
LR, MOMENTUM = 1e-4, 0.9


def batch():
    """Noise with squares, as a datamodule gives it."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 100, (BATCH, 3, SIZE, SIZE), generator=generator, dtype=torch.uint8)
    boxes = []
    for image in images:
        side = torch.randint(20, 70, (OBJECTS, 1), generator=generator)
        corner = (torch.rand(OBJECTS, 2, generator=generator) * (SIZE - side)).long()
        for (x, y), one in zip(corner.tolist(), side.flatten().tolist(), strict=True):
            image[:, y : y + one, x : x + one] += 100
        boxes.append(torch.cat([corner, corner + side], 1).float())
    return {
        "image": images,
        "boxes": boxes,
        "labels": [torch.arange(OBJECTS) % CLASSES for _ in boxes],
        "iscrowd": [torch.zeros(OBJECTS, dtype=torch.int64) for _ in boxes],
        "area": [(one[:, 2:] - one[:, :2]).prod(1) for one in boxes],
        "id": [str(number) for number in range(BATCH)],
    }


def clock():
    """Seconds on the wall, and of this process."""
    return np.array([time.perf_counter(), time.process_time()])


class Reference:
    """torchvision's loop, one step at a time, with random draws of its own."""

    def __init__(self, network, given):
        self.network = network.train()
        parameters = [p for p in network.parameters() if p.requires_grad]
        self.optimizer = torch.optim.SGD(parameters, lr=LR, momentum=MOMENTUM)
        # There, images are floats when they come from the loader.
        self.images = given["image"].float() / 255
        self.targets = [
            {"boxes": boxes, "labels": labels + 1}
            for boxes, labels in zip(given["boxes"], given["labels"], strict=True)
        ]
        self.mean, self.std = (torch.tensor(v).view(3, 1, 1) for v in (MEAN, STD))
        self.random = torch.get_rng_state()

    def step(self):
        others = torch.get_rng_state()
        torch.set_rng_state(self.random)
        started = clock()
        images = [(image - self.mean) / self.std for image in self.images]
        losses = sum(self.network(images, self.targets).values())
        value = losses.item()  # it stops where this is not finite
        self.optimizer.zero_grad()
        losses.backward()
        self.optimizer.step()
        seconds = clock() - started
        self.random = torch.get_rng_state()
        torch.set_rng_state(others)
        return seconds, value


class Turns(pl.Callback):
    """After each step of the Trainer, one of the reference."""

    def __init__(self, reference):
        self.reference, self.pairs, self.apart = reference, [], 0.0

    def on_train_start(self, trainer, module):
        torch.set_rng_state(self.reference.random)
        self.ended = clock()

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        ours = clock() - self.ended
        seconds, loss = self.reference.step()
        self.pairs.append((ours, seconds))
        self.apart = max(self.apart, abs(float(outputs["loss"]) - loss) / loss)
        self.ended = clock()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.manual_seed(0)
    network = faster_rcnn(
        "tf_efficientnet_lite0", CLASSES, strides=[8, 16, 32], fpn_channels=64, head_channels=128,
        frozen_norms=True, rpn_post_nms_top_n_train=300, box_batch_size_per_image=128,
    )  # fmt: skip
    given = batch()
    turns = Turns(Reference(copy.deepcopy(network), given))
    module = Detector(
        network=network, num_classes=CLASSES, mean=MEAN, std=STD,
        optimizer=SGD(lr=LR, momentum=MOMENTUM, weight_decay=0.0),
    )  # fmt: skip
    steps = arguments.steps + WARM_UP
    trainer = pl.Trainer(
        accelerator="cpu", max_steps=steps, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=[turns],
    )  # fmt: skip
    trainer.fit(module, torch.utils.data.DataLoader([given] * steps, batch_size=None))
    assert turns.apart < 1e-3, f"the losses differ by {turns.apart:.2g}: these are not the same"
    ours, theirs = np.array(turns.pairs[WARM_UP:]).transpose(1, 2, 0)  # each [2 clocks, steps]
    wall, own = np.median(ours / theirs, axis=1).tolist()
    milliseconds = [float(np.median(one[0]) * 1e3) for one in (theirs, ours)]
    print(f"torchvision's loop     {milliseconds[0]:7.1f} ms a step")
    print(f"Detector in a Trainer  {milliseconds[1]:7.1f} ms a step  {wall:.3f}")
    print(f"    of the process's own time                  {own:.3f}")
    if arguments.json:
        found = {"reference_ms": milliseconds[0], "ours_ms": milliseconds[1]}
        print(json.dumps(found | {"ratio": wall, "ratio_of_process_time": own}))


if __name__ == "__main__":
    main()

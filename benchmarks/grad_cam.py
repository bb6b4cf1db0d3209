"""What a Grad-CAM map costs, beside a full backward pass and beside pytorch-grad-cam.

A ResNet-18 in eval mode explains a batch of images on one thread, in turns: by the gradients of
the logits for the parameters and the image, which is what an explanation by plain gradients takes;
by the package's Grad-CAM of the last block; and by pytorch-grad-cam's of the same block. Ratios are
taken within a round, medians over rounds: the machine's own speed drifts.

    python benchmarks/grad_cam.py            # a table
    python benchmarks/grad_cam.py --json     # and a last line of JSON
"""

import argparse
import json
import os
import statistics
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")

import timm
import torch
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

from lit_imgproc.explain.cam import grad_cam, unit_range

TARGET = 1


def seconds(work):
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = timm.create_model("resnet18").eval()
    images = torch.rand(arguments.batch, 3, 224, 224)
    layer = network.layer4[-1]

    def full():
        inputs = images.clone().requires_grad_()
        network.zero_grad()
        network(inputs)[:, TARGET].sum().backward()
        return inputs.grad

    def ours():
        return unit_range(grad_cam(lambda x: network(x)[:, TARGET], images, layer))

    def theirs():
        with GradCAM(network, [layer]) as method:
            found = method(images, [ClassifierOutputTarget(TARGET)] * len(images))
        return torch.from_numpy(found)

    ways = {"full": full, "ours": ours, "theirs": theirs}
    maps = {name: work() for name, work in ways.items()}  # warms up
    torch.testing.assert_close(maps["ours"], maps["theirs"], rtol=0, atol=5e-5)
    rounds = [{name: seconds(work) for name, work in ways.items()} for _ in range(arguments.rounds)]
    median = {name: statistics.median(row[name] for row in rounds) for name in ways}
    ratio = {
        "ours_to_full": statistics.median(row["ours"] / row["full"] for row in rounds),
        "theirs_to_ours": statistics.median(row["theirs"] / row["ours"] for row in rounds),
    }
    print(f"forward and full backward   {median['full']:6.3f} s")
    print(f"Grad-CAM                    {median['ours']:6.3f} s  {ratio['ours_to_full']:.3f} of it")
    print(
        f"pytorch-grad-cam's          {median['theirs']:6.3f} s  "
        f"{ratio['theirs_to_ours']:.2f} times the package's"
    )
    if arguments.json:
        print(json.dumps({f"{name}_s": value for name, value in median.items()} | ratio))


if __name__ == "__main__":
    main()

import copy
import math
import subprocess
import sys

import pytest
import torch

from lit_imgproc.errors import UserError
from lit_imgproc.models.base import ImageModule
from lit_imgproc.models.feature_networks import feature_network
from lit_imgproc.models.image_sets import ImageSetMetrics
from lit_imgproc.models.set_distances import feature_distance, kernel_distance, precision_recall

NAMES = ("fid_pixels", "kid_pixels", "precision_pixels", "recall_pixels")


def random_images(count, seed=0, channels=3):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, channels, 16, 16, generator=generator) ** (1 + 0.1 * seed)


def measured(real, fake, metric=None, batch=7):
    metric = metric or ImageSetMetrics("pixels")
    for images in real.split(batch):
        metric.update(images, real=True)
    for images in fake.split(batch):
        metric.update(images, real=False)
    return floats(metric.compute())


def floats(values):
    return {name: value.item() for name, value in values.items()}


class Generating(ImageModule):
    def __init__(self):
        super().__init__()
        self.network = torch.nn.Conv2d(3, 3, 1)
        self.sets = ImageSetMetrics("pixels")


class Counted(torch.nn.Module):
    """Counts how often a feature network is asked."""

    def __init__(self, network):
        super().__init__()
        self.network, self.dim, self.calls = network, network.dim, 0

    def forward(self, images):
        self.calls += 1
        return self.network(images)


def test_a_set_is_at_no_distance_from_itself():
    images = random_images(20)
    values = measured(images, images)
    assert tuple(values) == ImageSetMetrics("pixels").names == NAMES
    fid, kid, precision, recall = values.values()
    assert fid == pytest.approx(0, abs=1e-6)
    assert kid < 0  # each image is compared with itself between the sets, and not within
    assert precision == recall == 1


def test_batches_of_images_are_one_set():
    real, fake = random_images(30), random_images(25, seed=1)
    values = measured(real, fake)
    features = [feature_network("pixels")(images) for images in (real, fake)]
    expected = feature_distance(*features), kernel_distance(*features), *precision_recall(*features)
    assert list(values.values()) == pytest.approx([float(value) for value in expected])
    assert measured(real, fake, batch=4) == pytest.approx(values)


def test_grey_images_are_compared_too():
    values = measured(random_images(9, channels=1), random_images(9, 1, channels=1))
    assert values["fid_pixels"] > 0


def test_a_reset_forgets_both_sets():
    metric = ImageSetMetrics("pixels")
    first = measured(random_images(20), random_images(20, seed=1), metric)
    metric.reset()
    second = measured(random_images(20, seed=3), random_images(20, seed=4), metric)
    assert second != first
    assert second == measured(random_images(20, seed=3), random_images(20, seed=4))
    metric.reset()
    assert sum(map(len, [*metric.real, *metric.fake])) == 0


@pytest.mark.parametrize(("count", "known"), [(0, 0), (1, 0), (2, 2), (3, 2), (4, 4)])
def test_what_too_few_images_cannot_tell_is_left_out(count, known):
    for real, fake in ((count, 10), (10, count)):
        values = measured(random_images(real), random_images(fake, seed=1))
        assert tuple(values) == NAMES[:known]
        assert all(math.isfinite(value) for value in values.values())


def test_features_that_are_not_finite():
    fake = random_images(20)
    fake[3, 0, 0, 0] = torch.nan
    fake[9, 0, 0, 0] = torch.inf
    with pytest.raises(UserError, match="2 of 20 fake images have features that are not finite"):
        measured(random_images(20), fake)


def test_the_same_real_images_are_looked_at_once():
    real, fake = random_images(20), random_images(20, seed=1)
    metric = ImageSetMetrics("pixels")
    metric.network = counted = Counted(metric.network)
    first = measured(real, fake, metric, batch=10)
    assert counted.calls == 4
    for _ in range(2):
        metric.reset()
        assert measured(real, fake, metric, batch=10) == first
    assert counted.calls == 4 + 2 * 2  # the fakes
    metric.reset()
    fewer = measured(real[:10], fake, metric, batch=10)  # as limit_val_batches would have it
    assert counted.calls == 8 + 2
    assert fewer == measured(real[:10], fake)
    # What the last evaluation did not see is not kept for ever.
    metric.reset()
    changed = measured(real + 1e-7, fake, metric, batch=10)
    assert counted.calls == 10 + 4
    assert changed == pytest.approx(first, rel=1e-3)
    metric.reset()
    assert len(metric._known) == 2


def test_it_works_in_inference_mode_and_outside():
    real, fake = random_images(10), random_images(10, seed=1)
    metric = ImageSetMetrics("pixels")
    with torch.inference_mode():
        first = measured(real, fake, metric)
    metric.reset()
    assert measured(real, fake, metric) == first


def test_it_is_in_no_checkpoint_and_is_copied_with_its_module():
    module = Generating()
    module.sets.update(random_images(5), real=True)
    assert list(module.state_dict()) == ["network.weight", "network.bias"]
    Generating().load_state_dict(module.state_dict(), strict=True)
    copied = copy.deepcopy(module)
    copied.sets.update(random_images(5, seed=1), real=True)
    assert sum(map(len, copied.sets.real)) == 10
    assert sum(map(len, module.sets.real)) == 5
    assert module.double().sets.real[-1].dtype == torch.float32


SCRIPT = """
import sys
import torch
from torch import distributed
from lit_imgproc.models.image_sets import ImageSetMetrics
from lit_imgproc.worker import leave
distributed.init_process_group("gloo")
rank, folder = distributed.get_rank(), sys.argv[1]
answers = []
metric = ImageSetMetrics("pixels")
for sets in torch.load(f"{folder}/sets.pt"):
    # A rank has every other batch, or none of one that is the only one.
    for images, real in zip(sets, (True, False)):
        for batch in images.split(8)[rank::2]:
            metric.update(batch, real=real)
    answers.append({name: value.item() for name, value in metric.compute().items()})
    metric.reset()
torch.save(answers, f"{folder}/answers-{rank}.pt")
leave(0)
"""


@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric:UserWarning")
def test_two_ranks_equal_one_process(tmp_path):
    sets = [
        (random_images(50), random_images(30, seed=1)),
        (random_images(50), random_images(8, seed=2)),  # rank 1 has no fakes
        (random_images(8), random_images(8, seed=2)),  # rank 1 has no images
    ]
    torch.save(sets, tmp_path / "sets.pt")
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    subprocess.run([sys.executable, *torchrun, str(script), str(tmp_path)], check=True)
    expected = [measured(real, fake, batch=8) for real, fake in sets]
    for rank in (0, 1):
        for answer, values in zip(
            torch.load(tmp_path / f"answers-{rank}.pt"), expected, strict=True
        ):
            assert answer == pytest.approx(values, rel=1e-5, abs=1e-7)

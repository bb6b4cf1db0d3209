import inspect
import subprocess
import sys
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import nn
from torch.utils.data import DataLoader

from lit_imgproc.errors import UserError
from lit_imgproc.models.rle import decoded
from lit_imgproc.models.segmentation.batch import IGNORE
from lit_imgproc.models.segmentation.instance_module import InstanceSegmenter, truth_of
from lit_imgproc.models.segmentation.module import Segmenter
from lit_imgproc.optim import SGD

PLAIN = {"mean": [0.0] * 3, "std": [1.0] * 3, "optimizer": SGD(lr=0.1)}
NAMES = ["background", "nucleus"]


class Seen(nn.Module):
    """Its first channel is the probability of objects."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, images):
        one = torch.logit(images[:, :1] * self.weight, eps=1e-6)
        return torch.cat([torch.zeros_like(one), one], 1)


def segmenter(**more):
    options = {"network": Seen(), "num_classes": 2, "class_names": NAMES, **PLAIN, **more}
    return InstanceSegmenter(**options).eval()


def squares(*corners, side=8, size=(40, 60)):
    """The numbers of squares whose upper left corners are given."""
    numbers = np.zeros(size, np.int64)
    for number, (top, left) in enumerate(corners, start=1):
        numbers[top : top + side, left : left + side] = number
    return numbers


def batch_of(*numbers, seen=None, **more):
    """Images that show objects, or what is ``seen`` in their place."""
    seen = numbers if seen is None else seen
    images = [torch.tensor(0.9 * (one > 0)).float().expand(3, *one.shape) for one in seen]
    truth = [torch.tensor(one) for one in numbers]
    one_size = len({one.shape for one in numbers}) == 1
    put = torch.stack if one_size else list
    return {
        "image": put(images),
        "mask": put([(one > 0).long() for one in truth]),
        "instances": put(truth),
        "id": [f"{i}.png" for i in range(len(numbers))],
        **more,
    }


def measured(module, *batches):
    for batch in batches:
        module.validation_step(batch, 0)
    return module.summary(module.val_metrics)


A, B, C = (4, 4), (4, 30), (20, 20)


# Measuring ---------------------------------------------------------------------------------------


def test_what_is_found_exactly_scores_one():
    values = measured(segmenter(), batch_of(squares(A, B, C)))
    for name in ("mask_map", "mask_map_50", "mask_matching_50", "iou"):
        assert values[name] == pytest.approx(1), name
    assert "mask_map/nucleus" not in values
    assert "map" not in values


def test_objects_that_the_network_takes_for_one_are_missed():
    """Two of four are found, two are one object of IoU a half, which is a hit of COCO's at 0.5."""
    whole = squares(A, B, (20, 20), (20, 28))
    values = measured(segmenter(neck=0.1), batch_of(whole))
    assert values["mask_matching_50"] == pytest.approx(3 / 4)
    assert values["mask_map"] == pytest.approx((0.75 + 9 * 0.5) / 10, abs=0.01)
    assert values["iou"] == 1


def test_the_matching_score_is_a_mean_of_images():
    nothing = squares()
    batch = batch_of(squares(A, B), squares(C), nothing, nothing,
                     seen=(squares(A, C), squares(C), nothing, squares(A)))  # fmt: skip
    values = measured(segmenter(), batch)
    assert values["mask_matching_50"] == pytest.approx((1 / 3 + 1 + 1 + 0) / 4)


def test_images_of_several_sizes_are_one_set():
    numbers = squares(A, B), squares(A, C, size=(50, 41))
    wrong = squares(A, B), squares(A, size=(50, 41))
    assert measured(segmenter(), batch_of(*numbers))["mask_map"] == pytest.approx(1)
    assert measured(segmenter(), batch_of(*numbers, seen=wrong))["mask_matching_50"] == 0.75


@pytest.mark.parametrize(
    ("truth", "seen", "value", "matching"),
    [
        (squares(), squares(), -1, 1),
        (squares(), squares(A), -1, 0),
        (squares(A), squares(), 0, 0),
    ],
)
def test_no_objects_give_no_nan(truth, seen, value, matching):
    values = measured(segmenter(), batch_of(truth, seen=[seen]))
    assert values["mask_map"] == values["mask_map_50"] == value
    assert values["mask_matching_50"] == matching
    assert all(np.isfinite(float(one)) for one in values.values())


def test_more_objects_than_coco_counts_are_counted():
    corners = [(y, x) for y in range(1, 130, 11) for x in range(1, 160, 11)]
    grid = squares(*corners, size=(133, 166))
    assert grid.max() == 180
    values = measured(segmenter(), batch_of(grid))
    assert values["mask_map"] == pytest.approx(1)
    assert values["mask_mar_1000"] == pytest.approx(1)


def test_what_lies_where_nothing_is_asked_counts_nowhere():
    batch = batch_of(squares(A, B, C), seen=[squares(A, B, (20, 22), (30, 4))])
    batch["mask"][0, 18:] = IGNORE
    values = measured(segmenter(), batch)
    assert values["mask_matching_50"] == 1
    assert values["mask_map_50"] == pytest.approx(1)
    batch["mask"][0, 18:] = 0
    assert measured(segmenter(), batch)["mask_matching_50"] == pytest.approx(3 / 4)


def test_numbers_of_the_truth_may_have_gaps():
    numbers = squares(A, B, C)
    numbers[numbers == 2] = 700
    assert measured(segmenter(), batch_of(numbers))["mask_map"] == pytest.approx(1)


def test_truth_is_numbered_anew_with_what_is_ignored_last():
    instances = np.array([[5, 5, 0, 9], [5, 5, 0, 9]])
    ignored = np.zeros((2, 4), bool)
    whole = truth_of(instances, ignored, 0.5)
    assert whole["masks"].tolist() == [[1, 1, 0, 2]] * 2
    assert whole["area"].tolist() == [8, 4]
    assert whole["boxes"].tolist() == [[0, 0, 2, 2], [3, 0, 4, 2]]
    ignored[:, 1:3] = True
    part = truth_of(instances, ignored, 1.0)
    assert part["masks"].tolist() == [[1, 3, 3, 2]] * 2
    assert part["iscrowd"].tolist() == [0, 0, 1]
    full = truth_of(np.ones((2, 3), np.int64), np.zeros((2, 3), bool), 1.0)
    assert full["masks"].tolist() == [[1] * 3] * 2
    assert full["labels"].tolist() == [0]


def test_small_and_large_are_told_in_pixels_of_the_file():
    numbers = squares(A, side=16)  # 64x64 in a file four times as large: medium, and not small
    geometry = [{"path": "a.png", "size": [160, 240], "scale": [0.25, 0.25]}]
    values = measured(segmenter(), batch_of(numbers, geometry=geometry))
    assert values["mask_map_medium"] == pytest.approx(1)
    assert "mask_map_small" not in values


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_a_trainer_logs_them(tmp_path):
    trainer = pl.Trainer(logger=False, accelerator="cpu", enable_progress_bar=False,
                         enable_checkpointing=False, default_root_dir=tmp_path)  # fmt: skip
    module = segmenter()
    for split, run in (("val", trainer.validate), ("test", trainer.test)):
        loader = DataLoader([batch_of(squares(A), seen=[squares(B)])], batch_size=None)
        (values,) = run(module, loader, verbose=False)
        assert values[f"{split}/mask_map"] == values[f"{split}/mask_matching_50"] == 0
        assert values[f"{split}/iou/nucleus"] == 0


SCRIPT = """
import sys
import torch
sys.path.insert(0, {tests!r})
from torch import distributed
from lit_imgproc.worker import leave
from test_instance_module import measured, segmenter
distributed.init_process_group("gloo")
rank, folder = distributed.get_rank(), sys.argv[1]
batches = torch.load(f"{{folder}}/batches.pt", weights_only=False)
torch.save(measured(segmenter(), *batches[rank::2]), f"{{folder}}/answers-{{rank}}.pt")
leave(0)
"""


def test_two_ranks_equal_one_process(tmp_path):
    random = np.random.default_rng(0)
    batches = []
    for count in (3, 0, 5, 1):
        rows, columns = random.permutation(4)[:4] * 10, random.permutation(6)[:5] * 10
        corners = [(rows[n % 4], columns[n % 5]) for n in range(count)]
        moved = [(y, x + int(random.integers(0, 4))) for y, x in corners]
        batches.append(batch_of(squares(*corners, size=(40, 70)),
                                seen=[squares(*moved, size=(40, 70))]))  # fmt: skip
    torch.save(batches, tmp_path / "batches.pt")
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(tests=str(Path(__file__).parent)))
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    subprocess.run([sys.executable, *torchrun, str(script), str(tmp_path)], check=True)
    values = measured(segmenter(), *batches)
    assert 0.2 < values["mask_map"] < 0.99
    for rank in (0, 1):
        assert torch.load(tmp_path / f"answers-{rank}.pt", weights_only=False) == values


# Answers, pictures -------------------------------------------------------------------------------


def test_answers_are_a_detector_s_and_a_segmenter_s():
    batch = batch_of(squares(A, B, C))
    batch["image"][0, 0][batch["instances"][0] == 3] = 0.99
    batch["image"][0, 0][batch["instances"][0] == 2] = 0.6
    (answer,) = segmenter().predict_step(batch, 0)
    assert answer["id"] == "0.png"
    assert answer["boxes"] == [[20, 20, 28, 28], [4, 4, 12, 12], [30, 4, 38, 12]]
    assert answer["labels"] == ["nucleus"] * 3
    assert answer["scores"] == pytest.approx([0.99, 0.9, 0.6], abs=1e-5)
    assert answer["instances"].dtype == np.int32
    masks = decoded(answer["masks"])
    for number, mask in enumerate(masks, start=1):
        assert np.array_equal(mask, answer["instances"] == number)
    assert np.array_equal(answer["mask"], answer["instances"] > 0)
    assert answer["classes"]["nucleus"] == pytest.approx(3 * 64 / 2400)


@pytest.mark.parametrize("size", [[80, 120], [20, 30], [33, 71]])
def test_answers_are_in_pixels_of_the_file(size):
    geometry = {"path": "a.png", "size": size, "scale": [40 / size[0], 60 / size[1]]}
    (answer,) = segmenter().predict_step(batch_of(squares(A, B), geometry=[geometry]), 0)
    assert answer["instances"].shape == answer["mask"].shape == tuple(size)
    assert answer["masks"][0]["size"] == size
    expected = {(4 * size[1] / 60, 4 * size[0] / 40), (30 * size[1] / 60, 4 * size[0] / 40)}
    for (x, y), box in zip(sorted(expected), sorted(answer["boxes"]), strict=True):
        assert box[:2] == pytest.approx([x, y], abs=1)
        assert box[2] - box[0] == pytest.approx(8 * size[1] / 60, abs=1)


def test_objects_that_a_small_file_has_no_pixel_for_are_left_out():
    numbers = squares(A, (20, 30), side=4)
    geometry = {"path": "a.png", "size": [2, 3], "scale": [20, 20]}
    (answer,) = segmenter(min_size=1).predict_step(batch_of(numbers, geometry=[geometry]), 0)
    count = len(answer["scores"])
    assert count < 2
    assert len(answer["masks"]) == len(answer["boxes"]) == answer["instances"].max() == count


def test_nothing_is_found_in_nothing():
    batch = {"image": torch.zeros(1, 3, 24, 24), "id": ["a"]}
    (answer,) = segmenter().predict_step(batch, 0)
    assert [answer[k] for k in ("boxes", "labels", "scores", "masks")] == [[]] * 4
    assert not answer["instances"].any()
    segmenter().draw(batch, [answer])


def test_how_objects_are_split_is_of_the_module():
    batch = batch_of(squares(A, (4, 12), (30, 50)))  # the first two are one bar

    def count(**more):
        return len(segmenter(**more).predict_step(batch, 0)[0]["scores"])

    assert count() == 2
    assert count(min_size=65) == 1
    assert count(threshold=0.95) == 0


def test_pictures_show_objects_that_touch_in_colours_of_their_own():
    rows, columns = np.mgrid[:40, :60]
    numbers = np.zeros((40, 60), np.int64)
    numbers[(rows - 20) ** 2 + (columns - 18) ** 2 <= 100] = 1
    numbers[(rows - 20) ** 2 + (columns - 38) ** 2 <= 100] = 300
    batch = batch_of(numbers)
    module = segmenter()
    picture = module.draw(batch, module.predict_step(batch, 0))
    assert picture.dtype == np.uint8
    for left in (4, 4 + 184):  # the truth, and beside it what is found
        tile = picture[4 : 4 + 120, left : left + 180]
        assert (tile[60, 54] != tile[60, 114]).any()
    alone = {"image": batch["image"], "id": batch["id"]}
    assert module.draw(alone, module.predict_step(batch, 0)).size < 0.7 * picture.size


# What it takes -----------------------------------------------------------------------------------


def test_the_signature_has_a_segmenter_s_arguments_and_three_more():
    own = inspect.signature(InstanceSegmenter).parameters
    base = inspect.signature(Segmenter).parameters
    assert set(own) - set(base) == {"threshold", "neck", "min_size"}
    assert {name: own[name] for name in base} == dict(base)


def test_one_class_of_objects_is_needed():
    with pytest.raises(UserError, match=r"model\.num_classes is 3"):
        segmenter(num_classes=3, class_names=["background", "a", "b"])


def test_volumes_are_refused():
    with pytest.raises(UserError, match="its network at volumes"):
        segmenter(network=nn.Conv3d(1, 2, 1))


def test_data_without_numbers_of_objects_is_refused():
    batch = batch_of(squares(A))
    del batch["instances"]
    with pytest.raises(UserError, match=r"data\.target=semantic"):
        segmenter().validation_step(batch, 0)


# Real nuclei -------------------------------------------------------------------------------------


def test_real_nuclei_through_their_datamodule(shared_data):
    """Where the network is right about all pixels but those at which nuclei touch."""
    from lit_imgproc.data.coco.label_images import LabelImages

    data = LabelImages(root=str(shared_data / "nuclei"), index="index.csv", target="semantic",
                       class_name="nucleus", resize="none", num_workers=0)  # fmt: skip
    data.prepare()
    module = segmenter()
    batch = data.batch("test", [0, 3, 9, 30])
    shown = []
    for numbers in batch["instances"]:
        apart = numbers.numpy() > 0
        edges = ndimage.maximum_filter(numbers.numpy(), 3) != numbers.numpy()
        shown.append(torch.tensor(apart & ~edges).float().expand(3, *numbers.shape))
    values = measured(module, {**batch, "image": shown})
    assert values["mask_matching_50"] > 0.9
    assert values["mask_map_50"] > 0.9

"""The crops and the boxes of `benchmarks/pointing_game.py`, whose figures are told."""

import importlib.util
import json
from pathlib import Path

import cv2
import numpy as np
import torch
from torchvision.ops import box_area, clip_boxes_to_image

from lit_imgproc.data.imagenet.datamodule import ImageFolder

PATH = Path(__file__).resolve().parent.parent / "benchmarks" / "pointing_game.py"
SPEC = importlib.util.spec_from_file_location("pointing_game", PATH)
pointing_game = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(pointing_game)


def photograph(folder, split, colour):
    """A dark photograph of one split with a white cell, a platelet, and a cell that is red."""
    cells = {"WBC": [20, 30, 100, 80], "Platelets": [500, 300, 40, 40], "RBC": [300, 200, 90, 90]}
    pixels = np.zeros((480, 640, 3), np.uint8)
    for shade, (left, top, width, height) in zip((220, 128, 40), cells.values(), strict=True):
        pixels[top : top + height, left : left + width] = shade
    pixels[..., 0] += colour
    cv2.imwrite(str(folder / "JPEGImages" / f"{split}.png"), pixels)
    empty = {"bbox": [400, 10, 0, 30], "category_id": 2}
    boxes = [{"bbox": box, "category_id": k} for k, box in enumerate(cells.values())]
    told = {
        "images": [{"id": 7, "file_name": f"{split}.png", "width": 640, "height": 480}],
        "annotations": [{"id": n, "image_id": 7, **one} for n, one in enumerate([*boxes, empty])],
        "categories": [{"id": k, "name": name} for k, name in enumerate(cells)],
    }
    (folder / "coco" / f"instances_{split}.json").write_text(json.dumps(told))


def bccd(folder):
    for name in ("JPEGImages", "coco"):
        (folder / name).mkdir(parents=True)
    for colour, split in enumerate(("train", "val", "test")):
        photograph(folder, split, colour)
    return folder


def test_what_is_visible_is_torchvisions():
    random = np.random.default_rng(0)
    low, extent = random.uniform(0, 400, (2, 50, 2))
    boxes = np.concatenate([low, low + 1 + extent], 1)
    shares, within = pointing_game.visible(boxes, 120, 60, side=240)
    moved = torch.from_numpy(boxes - [120, 60, 120, 60])
    clipped = clip_boxes_to_image(moved, (240, 240))
    np.testing.assert_allclose(within, clipped)
    np.testing.assert_allclose(shares, box_area(clipped) / box_area(moved))
    assert (shares == 0).any()
    assert (shares == 1).any()


def test_crops_show_one_cell_anywhere_and_nothing_of_others():
    boxes = np.array([[200.0, 150, 300, 250], [420, 300, 460, 340]])
    random = np.random.default_rng(0)
    places = [pointing_game.draw_crop(boxes, 0, (480, 640), random) for _ in range(300)]
    seen = [pointing_game.visible(boxes, *place) for place in places]
    assert all(shares[0] >= 0.5 and shares[1] == 0 for shares, _ in seen)
    middles = np.array([(within[0, :2] + within[0, 2:]) / 2 for _, within in seen])
    assert (middles.min(0) < 60).all()
    assert (middles.max(0) > 180).all()
    for _ in range(50):
        shares, _ = pointing_game.visible(
            boxes, *pointing_game.draw_crop(boxes, None, (480, 640), random)
        )
        assert not shares.any()
    # The second box lies within the first: none is seen without the other.
    together = np.array([[200.0, 150, 300, 250], [240, 190, 260, 210]])
    assert pointing_game.draw_crop(together, 1, (480, 640), random) is None


def test_boxes_lie_on_their_cells_and_splits_apart(tmp_path):
    pointing_game.write_crops(bccd(tmp_path / "bccd"), tmp_path / "crops")
    data = ImageFolder(
        root=str(tmp_path / "crops"), image_size=80, resize="squash", num_workers=0, cache="memory"
    )
    assert data.splits() == {"train": 3 + 6 + 4, "val": 3, "test": 3}
    assert data.facts()["class_names"] == ["platelet", "red_cells", "white_cell"]
    for split in ("train", "val", "test"):
        assert all(split in name.split("/")[-1] for name in data.dataset(split).names)
    images, labels, masks = pointing_game.boxed_crops(data)
    assert labels.tolist() == [0, 2]
    for image, mask, shade in zip(images, masks, (128, 220), strict=True):
        near = (image[0] * 255 - shade).abs() < 20
        assert mask.any()
        # All but what averaging makes of the edge, and a cell of another shade is not in the box.
        assert (near & mask).sum() / mask.sum() > 0.7
        assert not (near & ~mask).any()


def test_the_table_tells_each_class_and_both(capsys):
    labels = torch.tensor([0, 0, 0, 0, 2])
    hits = {"map": [1.0, 1.0, 1.0, 0.0, 0.0]}
    rows = pointing_game.table(hits, labels, ["platelet", "red_cells", "white_cell"])
    assert {name: row[0] for name, row in rows["map"].items()} == {
        "platelet": 0.75,
        "white_cell": 0.0,
        "both": 0.6,
    }
    assert rows["map"]["both"][1] < 0.6 < rows["map"]["both"][2]
    out = capsys.readouterr().out
    assert "red_cells" not in out
    assert "0.75 (0.30 to 0.95)" in out


def test_the_picture_has_a_row_of_crops_and_one_of_each_map():
    masks = torch.zeros(3, 80, 80, dtype=torch.bool)
    masks[:, 10:30, 40:80] = True
    heat = torch.rand(3, 80, 80, generator=torch.Generator().manual_seed(0))
    maps = {"grad_cam": list(heat), "integrated_gradients": list(heat - 0.5)}
    drawn = pointing_game.picture(torch.zeros(3, 3, 80, 80), masks, maps)
    scale = drawn.shape[1] // 240
    assert drawn.shape == (drawn.shape[0], 240 * scale, 3)
    row = drawn[: 80 * scale]
    edges = row.any(2).nonzero()
    assert (edges[0].min(), edges[0].max() + 1) == (10 * scale, 30 * scale)
    assert edges[1].min() == 40 * scale
    assert drawn[80 * scale :].any()

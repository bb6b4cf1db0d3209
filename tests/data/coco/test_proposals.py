import json
import logging
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from lit_imgproc.data.coco.base import MOST
from lit_imgproc.data.coco.box_table import BoxTable
from lit_imgproc.data.coco.coco_json import CocoData
from lit_imgproc.data.coco.label_images import LabelImages
from lit_imgproc.data.coco.proposals import ProposalCache
from lit_imgproc.data.coco.voc import VocData
from lit_imgproc.data.coco.yolo import YoloData
from lit_imgproc.data.decode import read_image
from lit_imgproc.data.errors import DataError
from lit_imgproc.data.verify import verify
from lit_imgproc.errors import UserError
from lit_imgproc.selective_search import selective_search

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")
FORMATS = [CocoData, VocData, YoloData, BoxTable, LabelImages]


def silent(values, what, total):
    return values


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    root = tmp_path_factory.mktemp("drawn")
    CocoData.write_toy(root)
    make(root).prepare()
    return root


@pytest.fixture
def toy(drawn, tmp_path):
    """Small images with boxes, polygons and a crowd, which have been searched."""
    root = tmp_path / "toy"
    subprocess.run(["cp", "-a", drawn, root], check=True)
    return root


@pytest.fixture
def new(toy):
    """The same, not searched yet."""
    shutil.rmtree(toy / ".lit_imgproc")
    return toy


def make(root, kind=CocoData, **settings):
    defaults = {"proposals": 40, "num_workers": 0, "batch_size": 4, "resize": "none"}
    return kind(root=str(root), **(defaults | settings))


def parts(root):
    return sorted((root / ".lit_imgproc").rglob("*.part"))


def expected(root, name, most):
    return selective_search(read_image(root / name, 3), most=most)


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_gives_the_boxes_of_selective_search(tmp_path, kind):
    kind.write_toy(tmp_path)
    data = make(tmp_path, kind, image_size=64)
    for split in ("train", "val"):
        for key in (1, (1, 5)):
            sample = data.dataset(split)[key]
            assert sample["proposals"].dtype == torch.float32
            assert sample["proposals"].tolist() == expected(tmp_path, sample["id"], 40).tolist()
            assert len(sample["proposals"]) > 3
    plain = make(tmp_path, kind, image_size=64, proposals=None)
    assert "proposals" not in plain.dataset("val")[1]
    assert plain.fingerprint() == data.fingerprint()
    assert plain.facts() == data.facts()


def test_a_batch_has_a_list_of_them(toy):
    data = make(toy, image_size=64)
    batch = next(iter(data.train_dataloader()))
    assert isinstance(batch["proposals"], list)
    assert [one.shape[1] for one in batch["proposals"]] == [4] * 4
    assert isinstance(data.batch("val", [0])["proposals"], list)


def test_they_are_scaled_with_the_image(toy):
    stored = make(toy).dataset("val")
    squashed = make(toy, resize="squash", image_size=32).dataset("val")
    for index in range(3):
        height, width = stored.size(index)
        scale = torch.tensor([32 / width, 32 / height] * 2)
        found = squashed[index]["proposals"]
        assert torch.allclose(found, stored[index]["proposals"] * scale)
        assert found.max() <= 32


@pytest.mark.parametrize("target", ["boxes", "instances"])
@pytest.mark.parametrize("augment", ["flip", "crop_flip", "strong", "random_resized_crop"])
def test_augmentation_moves_them_with_the_boxes(toy, target, augment):
    """The objects' own boxes in the place of proposals come out where the objects do."""
    settings = {"resize": "squash", "image_size": 64, "target": target}
    settings["augment"] = {"train": augment}
    plain = make(toy, proposals=None, **settings).dataset("train")
    searched = make(toy, **settings).dataset("train")

    class Same:
        def boxes(self, index, path):
            return searched.source.objects(index).boxes

    seen = 0
    for key in [(index, (index * 7919) << 20) for index in range(len(plain))]:
        one, other = plain[key], searched[key]
        for name in (
            "image",
            "boxes",
            "labels",
            "iscrowd",
            "area",
            *(["masks"] if "masks" in one else []),
        ):
            assert torch.equal(one[name], other[name]), name
        proposals, (height, width) = other["proposals"], other["image"].shape[1:]
        assert (proposals >= 0).all()
        assert (proposals <= torch.tensor([width, height] * 2)).all()
        assert (proposals[:, 2:] - proposals[:, :2] >= 0.99).all()
        searched.proposals, kept = Same(), searched.proposals
        again = searched[key]
        searched.proposals = kept
        if target == "boxes":
            assert torch.equal(again["proposals"], one["boxes"])
        else:  # an object whose mask cannot be seen is left out, a proposal is not
            rows = set(map(tuple, again["proposals"].tolist()))
            assert rows >= set(map(tuple, one["boxes"].tolist()))
        seen += len(one["boxes"])
    assert seen > 10


def test_those_that_are_cut_away_are_dropped(toy):
    crop = [{"name": "Crop", "x_min": 32, "y_min": 0, "x_max": 64, "y_max": 64}]
    settings = {"resize": "squash", "image_size": 64}
    whole = make(toy, **settings).dataset("train")
    cut = make(toy, augment={"train": crop}, **settings).dataset("train")
    fewer = 0
    for index in range(len(whole)):
        boxes, found = whole[index, 0]["proposals"], cut[index, 0]["proposals"]
        moved = (boxes - torch.tensor([32.0, 0, 32, 0])).clamp(min=0)
        left = moved[(moved[:, 2:] - moved[:, :2] >= 1).all(1)]
        assert torch.allclose(found, left, atol=1e-4)
        fewer += len(boxes) - len(left)
    assert fewer > 0


@pytest.mark.parametrize("target", ["semantic", "captions"])
def test_other_targets_have_none(toy, target):
    with pytest.raises(UserError, match=f"not for target={target}"):
        make(toy, target=target)
    with pytest.raises(UserError, match="not for target=semantic"):
        make(toy, VocData, target="semantic")


def test_an_image_is_searched_once_whatever_number_is_asked_for(new, monkeypatch):
    many = make(new, proposals=MOST).dataset("val")[0]["proposals"]
    made = {path: path.stat().st_mtime_ns for path in parts(new)}
    assert len(made) == 1

    def never(*_, **__):
        raise AssertionError("searched again")

    monkeypatch.setattr("lit_imgproc.data.coco.proposals.selective_search", never)
    few = make(new, proposals=3, image_size=48).dataset("val")[0]["proposals"]
    assert few.tolist() == many[:3].tolist()
    grey = make(new, proposals=3, in_channels=1).dataset("val")[0]["proposals"]
    assert torch.equal(grey, few)
    assert {path: path.stat().st_mtime_ns for path in parts(new)} == made


def test_a_changed_image_is_searched_again(toy):
    before = make(toy).dataset("val")[0]
    image = cv2.imread(str(toy / before["id"]))
    cv2.imwrite(str(toy / before["id"]), np.zeros_like(image))
    after = make(toy).dataset("val")[0]
    height, width = image.shape[:2]
    assert after["proposals"].tolist() == [[0, 0, width, height]]
    assert len(before["proposals"]) > 3


def test_prepare_searches_and_verify_reads_all_of_it(new, caplog):
    data = make(new)
    assert data.verify_cache(silent) == []  # it is made when it is needed
    steps = []

    def count(values, what, total):
        steps.append((what, total))
        return values

    folder = data.prepare_cache(count)
    assert folder.parent == new / ".lit_imgproc"
    assert steps[-1] == ("proposals", len(list(new.rglob("*.jpg"))))
    assert data.verify_cache(silent) == []
    (part,) = parts(new)
    whole = part.read_bytes()
    part.write_bytes(b"\1" + whole[1:])
    (told,) = make(new).verify_cache(silent)
    assert "damaged" in told
    assert told in verify(make(new), silent).problems
    with caplog.at_level(logging.WARNING):
        make(new).prepare_cache(silent)
    assert "is made again" in caplog.text
    assert part.read_bytes() == whole
    assert verify(make(new), silent).problems == []
    with pytest.raises(DataError, match=r"data\.proposals is null"):
        make(new, proposals=None).prepare_cache(silent)


def test_a_part_that_was_cut_short_is_made_again_when_training_starts(toy):
    before = make(toy).dataset("val")[0]["proposals"]
    (part,) = parts(toy)
    whole = part.read_bytes()
    part.write_bytes(whole[:-9])
    assert torch.equal(make(toy).dataset("val")[0]["proposals"], before)
    assert part.read_bytes() == whole


def test_in_a_folder_that_cannot_be_written_to_they_are_kept_in_the_users_own(new, monkeypatch):
    real = os.access
    monkeypatch.setattr(
        os, "access", lambda path, mode: new not in Path(path).parents and real(path, mode)
    )
    before = make(new).dataset("val")[0]["proposals"]
    own = Path(os.environ["XDG_CACHE_HOME"]) / "lit_imgproc/data"
    assert len(list(own.rglob("*.part"))) == 1
    assert parts(new) == []
    assert torch.equal(make(new).dataset("val")[0]["proposals"], before)
    shutil.rmtree(own)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(DataError, match="XDG_CACHE_HOME"):
        make(new).prepare()


def damage(path):
    """Cut a JPEG's pixels short, which its header does not tell, and keep its end."""
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2 - 2) + data[-2:])


def test_an_image_that_cannot_be_read_is_left_out_or_stops_as_without_proposals(toy):
    names = json.loads((toy / "annotations/instances_val2017.json").read_text())["images"]
    broken = toy / "val2017" / names[1]["file_name"]
    damage(broken)
    for proposals in (None, 9):
        with pytest.raises(DataError, match=broken.name):
            make(toy, proposals=proposals).prepare()
        data = make(toy, proposals=proposals, on_error="skip")
        assert data.splits()["val"] == 5
        assert len(data.left_out) == 1
    with pytest.raises(DataError, match=broken.name):
        make(toy).prepare_cache(silent)
    data = make(toy, on_error="skip")
    data.prepare_cache(silent)
    assert broken.name in data.left_out[0]


def test_an_image_that_can_be_read_again_is_searched_then(new, monkeypatch):
    name = make(new, proposals=None).dataset("val").names[1]
    path, state = new / name, (new / name).stat()
    sound = path.read_bytes()
    damage(path)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert path.stat().st_size == state.st_size
    make(new, on_error="skip").prepare_cache(silent)
    path.write_bytes(sound)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    data = make(new)
    data.prepare_cache(silent)
    assert data.dataset("val")[1]["proposals"].tolist() == expected(new, name, 40).tolist()


def test_a_search_draws_none_of_torchs_random_numbers(new):
    torch.manual_seed(3)
    make(new).prepare()
    after = torch.rand(4)
    torch.manual_seed(3)
    make(new).prepare()
    assert torch.equal(after, torch.rand(4))
    torch.manual_seed(3)
    assert torch.equal(after, torch.rand(4))


@pytest.mark.parametrize("workers", [1, 2])
def test_batches_do_not_depend_on_the_number_of_workers(toy, workers):
    settings = {"augment": {"train": "crop_flip"}, "resize": "squash", "image_size": 64}
    alone = make(toy, **settings).train_dataloader()
    helped = make(toy, num_workers=workers, **settings).train_dataloader()
    for one, other in zip(alone, helped, strict=True):
        assert one["id"] == other["id"]
        for mine, theirs in zip(one["proposals"], other["proposals"], strict=True):
            assert torch.equal(mine, theirs)


def test_a_dataset_can_be_sent_to_another_process(toy):
    dataset = make(toy).dataset("val")
    sent = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(sent[0]["proposals"], dataset[0]["proposals"])


SEARCH = """
import sys, time
from lit_imgproc.data.coco import proposals
from lit_imgproc.data.coco.coco_json import CocoData
if len(sys.argv) > 2:
    search = proposals.selective_search
    def slow(*args, **kwargs):
        time.sleep(float(sys.argv[2]))
        return search(*args, **kwargs)
    proposals.selective_search = slow
data = CocoData(root=sys.argv[1], proposals=5, num_workers=0, resize="none")
print("begun", flush=True)
print(sum(len(sample["proposals"]) for sample in data.dataset("val")), flush=True)
"""


def begin(root, *arguments):
    command = [sys.executable, "-c", SEARCH, str(root), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_several_ranks_at_once_search_once(new):
    ranks = [begin(new, "0.05") for _ in range(2)]
    answers = {rank.communicate(timeout=300)[0] for rank in ranks}
    assert len(answers) == 1
    assert int(answers.pop().split()[1]) > 6
    (part,) = parts(new)
    assert not list(part.parent.glob("*.partial"))


def children(pid):
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += map(int, (task / "children").read_text().split())
    return found


def test_of_a_training_that_was_killed_nothing_is_left_in_the_way(new):
    killed = begin(new, "1")
    assert killed.stdout.readline() == "begun\n"
    end = time.monotonic() + 120
    while not children(killed.pid) and time.monotonic() < end:
        time.sleep(0.05)
    searching = children(killed.pid)
    assert searching
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert parts(new) == []
    later = begin(new)
    assert int(later.communicate(timeout=300)[0].split()[1]) > 6
    assert len(parts(new)) == 1
    assert not any(Path(f"/proc/{pid}").exists() for pid in searching)


def test_blood_cells_have_proposals_around_most_of_them(shared_data, tmp_path):
    told = json.loads((shared_data / "bccd/coco/instances_val.json").read_text())
    told["images"] = told["images"][:3]
    numbers = {image["id"] for image in told["images"]}
    told["annotations"] = [one for one in told["annotations"] if one["image_id"] in numbers]
    (tmp_path / "instances_train.json").write_text(json.dumps(told))
    (tmp_path / "images").mkdir()
    for image in told["images"]:
        shutil.copy(shared_data / "bccd/JPEGImages" / image["file_name"], tmp_path / "images")
    data = CocoData(
        root=str(tmp_path),
        annotations="instances_{split}.json",
        images="images",
        image_size=240,
        proposals=300,
        val_fraction=0.34,
        test_fraction=0.34,
        num_workers=0,
    )
    found = []
    for split in ("train", "val", "test"):
        for sample in data.dataset(split):
            boxes, proposals = sample["boxes"], sample["proposals"]
            assert proposals.shape == (300, 4)
            assert proposals[:, 2].max() == 320
            low = torch.maximum(boxes[:, None, :2], proposals[None, :, :2])
            high = torch.minimum(boxes[:, None, 2:], proposals[None, :, 2:])
            shared = (high - low).clamp(min=0).prod(2)
            areas = [(some[:, 2:] - some[:, :2]).prod(1) for some in (boxes, proposals)]
            iou = shared / (areas[0][:, None] + areas[1] - shared)
            found += (iou.max(1).values > 0.5).tolist()
    assert len(found) > 20
    assert np.mean(found) > 0.7


def test_parts_are_named_by_the_images_they_are_of(toy):
    data = make(toy)
    data.prepare()
    names = [name for split in ("train", "val") for name in data.dataset(split).names]
    cache = ProposalCache(toy, reversed(names))
    assert [slot.name for slot in cache.slots] == [path.name for path in parts(toy)]
    assert cache.form.name.startswith("selective-search-1-")

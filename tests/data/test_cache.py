import hashlib
import logging
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from lit_imgproc.data.cache import Cache
from lit_imgproc.data.errors import DataError
from lit_imgproc.data.form import Form, load
from lit_imgproc.data.imagenet.datamodule import ImageFolder
from lit_imgproc.data.imagenet.toy import write_folder
from lit_imgproc.inputs import InputSpec

SPEC = InputSpec(3, (32, 32), "crop", 0.8)


def silent(values, what, total):
    return values


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Pictures of many sizes in two classes, some smaller than a cache's images."""
    root = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (root / name).mkdir()
        for number in range(20):
            height, width = random.integers(20, 120, 2)
            small = random.integers(0, 256, (6, 6, 3), np.uint8)
            image = cv2.resize(small, (int(width), int(height)), interpolation=cv2.INTER_CUBIC)
            cv2.imwrite(str(root / name / f"{number}.{'png' if number % 3 else 'jpg'}"), image)
    return root


@pytest.fixture
def copy(photos, tmp_path):
    """The same, to be damaged."""
    root = tmp_path / "photos"
    subprocess.run(["cp", "-a", photos, root], check=True)
    return root


def folder(root, cache, **arguments):
    settings = {"image_size": 32, "crop_fraction": 0.8, "batch_size": 8, "num_workers": 0}
    return ImageFolder(root=str(root), cache=cache, **(settings | arguments))


def prepared(root, cache, **arguments):
    data = folder(root, cache, **arguments)
    if cache in ("jpeg", "raw"):
        data.prepare_cache(silent)
    return data


def parts(data):
    return sorted(data.prepare_cache(silent).glob("*.part"))


@pytest.mark.parametrize("resize", ["crop", "squash", "fit", "none"])
@pytest.mark.parametrize("cache", ["raw", "memory"])
def test_evaluation_on_pixels_is_that_on_files_to_the_bit(copy, cache, resize):
    plain, cached = folder(copy, None, resize=resize), prepared(copy, cache, resize=resize)
    for split in ("train", "val", "test"):
        for one, other in zip(plain.dataset(split), cached.dataset(split), strict=True):
            assert torch.equal(one["image"], other["image"])
            assert (one["label"], one["id"]) == (other["label"], other["id"])


@pytest.mark.parametrize("cache", ["jpeg", "raw", "memory", "device"])
def test_a_cache_changes_neither_splits_nor_facts_nor_the_fingerprint(copy, cache):
    plain, cached = folder(copy, None), prepared(copy, cache)
    assert cached.splits() == plain.splits()
    assert cached.fingerprint() == plain.fingerprint()
    for split in ("train", "val", "test"):
        assert cached.dataset(split).names == plain.dataset(split).names
        sizes = [
            [data.dataset(split).size(index) for index in range(3)] for data in (plain, cached)
        ]
        assert sizes[0] == sizes[1]
    facts, expected = cached.facts(), plain.facts()
    if cache == "jpeg":
        for key in ("mean", "std"):
            assert facts.pop(key) == pytest.approx(expected.pop(key), abs=0.01)
    assert facts == expected


def test_what_is_kept_is_no_larger_than_the_file_or_than_evaluation_needs(copy):
    data = prepared(copy, "raw")
    dataset = data.dataset("train")
    for index in range(len(dataset)):
        stored, original = dataset.image(index).shape[:2], dataset.size(index)
        assert stored == original if min(original) < 40 else min(stored) == 40


def test_a_jpeg_cache_is_close_to_the_images(copy):
    plain, cached = folder(copy, None).dataset("test"), prepared(copy, "jpeg").dataset("test")
    for one, other in zip(plain, cached, strict=True):
        assert (one["image"].float() - other["image"].float()).abs().mean() < 6


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("cache", ["jpeg", "raw", "memory", "device"])
def test_batches_are_the_same_for_any_number_of_workers_and_after_a_resume(copy, cache):
    augment = {"train": "crop_flip" if cache == "device" else "random_resized_crop"}

    def loader(workers):
        return folder(copy, cache, augment=augment, num_workers=workers).train_dataloader()

    def hashes(loader, epoch):
        loader.batch_sampler.set_epoch(epoch)
        return [hashlib.sha256(batch["image"].numpy().tobytes()).digest() for batch in loader]

    prepared(copy, cache)
    expected = [hashes(loader(0), epoch) for epoch in (0, 1)]
    assert set(expected[0]).isdisjoint(expected[1])
    for workers in (1, 2, 4):
        many = loader(workers)
        assert [hashes(many, epoch) for epoch in (0, 1)] == expected
    stopped, resumed = loader(0), loader(2)
    batches = iter(stopped)
    next(batches)
    resumed.load_state_dict(stopped.state_dict())
    assert hashes(resumed, 0) == expected[0][1:]


@pytest.mark.parametrize("cache", ["jpeg", "raw"])
def test_a_cache_that_was_not_made_says_what_to_run(copy, cache):
    with pytest.raises(DataError) as error:
        folder(copy, cache).prepare()
    assert str(error.value) == (
        f"{copy}: the {cache} cache of these images ({copy}/.lit_imgproc/{Form(cache, SPEC).name} "
        f"or {os.environ['XDG_CACHE_HOME']}/lit_imgproc/data/{Form(cache, SPEC).name}) "
        "is not there: run `lit-imgproc data prepare` with this recipe."
    )


def test_a_cache_of_other_files_is_refused(copy):
    prepared(copy, "raw").prepare()
    for change in (
        lambda: os.utime(copy / "cat/1.png", ns=(0, 0)),
        lambda: (copy / "cat/2.png").write_bytes((copy / "cat/4.png").read_bytes()),
        lambda: (copy / "dog/5.png").rename(copy / "dog/new.png"),
        lambda: (copy / "dog/7.png").unlink(),
    ):
        change()
        with pytest.raises(DataError, match="is of other files: run `lit-imgproc data prepare`"):
            folder(copy, "raw").prepare()
        prepared(copy, "raw").prepare()


def test_a_cache_of_other_settings_is_not_found(copy):
    prepared(copy, "raw").prepare()
    folder(copy, "raw", image_size=40, crop_fraction=1).prepare()  # scaled alike
    folder(copy, "raw", val_fraction=0.3, images_per_class=3).prepare()  # the same images
    for other in ({"image_size": 36}, {"interpolation": "bicubic"}, {"in_channels": 1}):
        with pytest.raises(DataError, match="is not there: run"):
            folder(copy, "raw", **other).prepare()


@pytest.mark.parametrize("in_channels", [1, 3])
@pytest.mark.parametrize("cache", ["jpeg", "raw", "memory"])
def test_training_images_come_from_any_cache(copy, cache, in_channels):
    data = prepared(copy, cache, in_channels=in_channels, augment={"train": "crop_flip_erase"})
    for batch in data.train_dataloader():
        assert batch["image"].shape[1:] == (in_channels, 32, 32)


def test_every_damage_is_named_and_made_good(copy, caplog):
    data = prepared(copy, "raw")
    expected = [sample["image"] for sample in data.dataset("train")]
    (part,) = parts(data)
    whole = part.read_bytes()
    assert folder(copy, "raw").verify_cache(silent) == []
    for damage in (
        whole[:1000] + bytes([whole[1000] ^ 1]) + whole[1001:],
        whole[: len(whole) // 2],
        whole[:-1],
        whole[: -len(whole) // 100] + bytes(len(whole) // 100),
        b"",
    ):
        part.unlink()
        part.write_bytes(damage)
        (told,) = folder(copy, "raw").verify_cache(silent)
        assert told.startswith(f"{part}: this part is damaged: run `lit-imgproc data prepare`")
        if len(damage) < len(whole):
            with pytest.raises(DataError, match=f"{part}: this part of the cache is damaged"):
                folder(copy, "raw").prepare()
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            again = prepared(copy, "raw")
        assert f"{part}: this part is damaged and is made again" in caplog.text
        assert part.read_bytes() == whole
    for sample, image in zip(again.dataset("train"), expected, strict=True):
        assert torch.equal(sample["image"], image)


def test_verify_tells_of_a_cache_that_is_not_there(copy):
    (told,) = folder(copy, "raw").verify_cache(silent)
    assert "there is no whole raw cache of these images: run" in told
    assert folder(copy, "memory").verify_cache(silent) == []


def test_files_that_cannot_be_read_are_told_by_the_cache(copy):
    (copy / "cat/1.png").write_bytes(b"no image")
    whole = (copy / "dog/3.jpg").read_bytes()
    (copy / "dog/3.jpg").write_bytes(whole[: len(whole) // 2])
    for data in (folder(copy, "raw").prepare_cache, lambda _: folder(copy, "raw").prepare()):
        with pytest.raises(DataError) as error:
            data(silent)
        first, second = str(error.value).splitlines()
        assert first.startswith(f"{copy}/cat/1.png: ")
        assert second.startswith(f"{copy}/dog/3.jpg: ")


@pytest.mark.parametrize("cache", [None, "jpeg", "raw", "memory", "device"])
def test_files_that_cannot_be_read_can_be_left_out(copy, cache, caplog):
    bad = ("cat/1.png", "cat/2.png", "dog/3.jpg")
    for name in bad:
        (copy / name).write_bytes(b"no image")
    data = prepared(copy, cache, on_error="skip")
    data.left_out.clear()
    assert sum(data.splits().values()) == 37
    assert [told.split(": ")[0] for told in data.left_out] == [f"{copy}/{name}" for name in bad]
    names = {name for split in data.splits() for name in data.dataset(split).names}
    assert names.isdisjoint(bad)
    assert sum(len(batch["id"]) for batch in data.test_dataloader()) == data.splits()["test"]


def test_the_device_is_refused_where_batches_cannot_be_made_there(copy):
    with pytest.raises(DataError, match=r"data\.cache=device: augment\.train='strong' has no form"):
        folder(copy, "device", augment={"train": "strong"})
    with pytest.raises(DataError, match=r"but none, flip, crop_flip, shift, dihedral do"):
        folder(copy, "device", augment={"train": [{"name": "HorizontalFlip"}]})


def test_only_caches_on_disk_are_prepared(copy):
    with pytest.raises(DataError, match=r"data\.cache is memory, which needs no preparation"):
        folder(copy, "memory").prepare_cache(silent)
    with pytest.raises(DataError, match=r"data\.cache is null"):
        folder(copy, None).prepare_cache(silent)


def test_a_folder_for_many_data_sets(copy, tmp_path):
    write_folder(tmp_path / "shapes")
    shared = str(tmp_path / "shared")
    where = {
        prepared(root, "raw", cache_dir=shared).prepare_cache(silent)
        for root in (copy, tmp_path / "shapes")
    }
    assert where == {Path(shared, Form("raw", SPEC).name)}
    for root in (copy, tmp_path / "shapes"):
        folder(root, "raw", cache_dir=shared).prepare()
    assert not (copy / ".lit_imgproc").exists()


def test_who_may_read_the_images_may_read_the_cache(copy, tmp_path):
    before = os.umask(0o077)
    try:
        for mode, files, folders in (
            (0o755, 0o644, 0o755),
            (0o770, 0o660, 0o770),
            (0o700, 0o640, 0o750),
        ):
            copy.chmod(mode)
            shared = tmp_path / f"{mode:o}" / "shared"
            where = prepared(copy, "raw", cache_dir=str(shared)).prepare_cache(silent)
            assert {path.stat().st_mode & 0o777 for path in where.glob("*.part")} == {files}
            assert {path.stat().st_mode & 0o777 for path in (where, shared)} == {folders}
    finally:
        os.umask(before)


def test_a_folder_that_cannot_be_written_to(copy, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot be written to; set data\.cache_dir"):
        folder(copy, "raw", cache_dir=str(tmp_path / "file" / "deeper")).prepare_cache(silent)


def test_one_changed_file_of_many_costs_one_part(copy, monkeypatch):
    monkeypatch.setattr("lit_imgproc.data.cache.PART_IMAGES", 8)
    before = parts(prepared(copy, "raw"))
    assert len(before) == 8
    os.utime(copy / "cat/1.png", ns=(0, 0))
    made = []

    def count(values, what, total):
        made.append((what, total))
        return values

    folder(copy, "raw").prepare_cache(count)
    assert made[0] == ("checking", 7)
    assert made[1][0] == "raw"
    assert made[1][1] < 12
    folder(copy, "raw").prepare()


def test_a_cache_can_be_sent_to_another_process(copy):
    dataset = prepared(copy, "raw").dataset("train")
    sent = pickle.dumps(dataset)
    assert len(sent) < sum(dataset.image(index).size for index in range(len(dataset)))
    for one, other in zip(pickle.loads(sent), dataset, strict=True):
        assert torch.equal(one["image"], other["image"])
    dataset = folder(copy, "memory").dataset("val")
    assert torch.equal(pickle.loads(pickle.dumps(dataset))[0]["image"], dataset[0]["image"])


PREPARE = """
import sys
from lit_imgproc.data import cache
from lit_imgproc.data.imagenet.datamodule import ImageFolder

cache.PART_IMAGES = 8

def slow(values, what, total):
    import time
    print(what, total, flush=True)
    for number, value in enumerate(values):
        if what == "raw" and len(sys.argv) > 2:
            print(number, flush=True)
            time.sleep(float(sys.argv[2]))
        yield value

ImageFolder(root=sys.argv[1], image_size=32, crop_fraction=0.8, cache="raw").prepare_cache(slow)
"""


def preparing(root, *delay):
    return subprocess.Popen(
        [sys.executable, "-c", PREPARE, str(root), *delay],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_preparing_goes_on_after_a_kill(copy):
    with preparing(copy, "0.05") as process:
        for line in process.stdout:
            if line.strip() == "22":
                process.send_signal(signal.SIGKILL)
                break
    where = copy / ".lit_imgproc" / Form("raw", SPEC).name
    kept = {path: path.stat().st_mtime_ns for path in where.glob("*.part")}
    assert 0 < len(kept) < 8
    assert len(list(where.glob("*.partial"))) == 1
    with preparing(copy) as process:
        output = process.stdout.read()
    assert process.returncode == 0, output
    assert f"checking {len(kept)}" in output
    assert not list(where.glob("*.partial"))
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert len(list(where.glob("*.part"))) == 8


def test_two_processes_do_the_work_once(copy):
    with preparing(copy, "0.02") as first:
        assert "checking 0" in first.stdout.readline()
        time.sleep(0.2)
        with preparing(copy) as second:
            output = second.stdout.read()
        assert first.wait() == 0
    assert second.returncode == 0, output
    assert "checking 8" in output
    assert "raw 0" in output


def test_unusual_names(copy):
    name = "cat/a: \n\u00e9.png"
    (copy / "cat/1.png").rename(copy / name)
    data = prepared(copy, "raw")
    assert name in {n for split in data.splits() for n in data.dataset(split).names}


def test_loading_keeps_the_order_of_the_names(photos, monkeypatch):
    monkeypatch.setattr("lit_imgproc.data.form.PART_IMAGES", 3)
    names = [f"cat/{number}.png" for number in (5, 1, 4, 2, 7, 8, 10)] + ["cat/none.png"]
    form = Form("raw", SPEC)
    pack = load(photos, names, form)
    assert len(pack) == 8
    for index, name in enumerate(names[:-1]):
        image = cv2.cvtColor(cv2.imread(str(photos / name)), cv2.COLOR_BGR2RGB)
        assert np.array_equal(form.unpack(pack, index, name), SPEC.uncut(image))
    assert pack.problem(7) == ": cannot be read (No such file or directory)."
    assert not form.unpack(pack, 0, "").flags.writeable


def test_an_empty_cache_is_no_special_case(tmp_path):
    cache = Cache(tmp_path, [], Form("raw", SPEC), [tmp_path])
    cache.prepare(silent)
    assert len(cache.open()) == 0

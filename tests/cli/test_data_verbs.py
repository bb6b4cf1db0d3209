"""`lit-imgproc data …` as it is typed."""

import json
import sys

import cv2
import pytest
import yaml

from lit_imgproc.cli import main
from lit_imgproc.data.coco.coco_json import CocoData
from lit_imgproc.data.imagenet.datamodule import ImageFolder

RECIPE = """\
data: {name: image_folder, root: shapes, image_size: 32, num_workers: 0, augment: {train: flip}}
"""


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    """Run a verb beside a recipe of three shapes: exit code, output and errors."""
    monkeypatch.chdir(tmp_path)
    ImageFolder.write_toy(tmp_path / "shapes")
    (tmp_path / "shapes.yaml").write_text(RECIPE)
    path = list(sys.path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["lit-imgproc", "data", *arguments])
        with pytest.raises(SystemExit) as ending:
            main()
        monkeypatch.setattr(sys, "path", path)
        return ending.value.code, *capsys.readouterr()

    return run


def test_verify_counts_and_fingerprints(run):
    code, out, _ = run("verify", "shapes.yaml", "--json")
    assert code == 0
    report = json.loads(out.splitlines()[-1])
    assert report["images"] == {"train": 48, "val": 12, "test": 24}
    assert report["problems"] == []
    data = ImageFolder(root="shapes", image_size=32, num_workers=0)
    assert f"fingerprint {data.fingerprint()}" in out


def test_verify_tells_what_is_wrong_and_exits_with_1(run, tmp_path):
    leaked = (tmp_path / "shapes/train/disc/disc_0.jpg").read_bytes()
    (tmp_path / "shapes/test/disc/leaked.jpg").write_bytes(leaked)
    code, out, _ = run("verify", "shapes.yaml")
    assert code == 1
    assert (
        "problem: test/disc/leaked.jpg of test is the same pixels as train/disc/disc_0.jpg of train"
    ) in out
    assert "48 train, 12 val, 25 test images: 1 problems, 0 remarks" in out


def test_stats_prints_a_table_and_draws_a_figure(run, tmp_path):
    code, out, _ = run("stats", "shapes.yaml", "--figure", "balance.png", "--json")
    assert code == 0
    assert "16 (33.3%)" in out
    found = json.loads(out.splitlines()[-1])
    assert found["train"]["classes"] == {"disc": 16, "ring": 16, "square": 16}
    assert cv2.imread(str(tmp_path / "balance.png")).shape[1] == 1100


def test_show_draws_what_training_would_see(run, tmp_path):
    code, out, _ = run("show", "shapes.yaml", "data.augment.train=random_resized_crop")
    assert code == 0
    assert "wrote samples.png" in out
    first = cv2.imread(str(tmp_path / "samples.png"))
    run("show", "shapes.yaml", "--plain", "--output", "plain.png")
    run("show", "shapes.yaml", "data.augment.train=random_resized_crop", "--epoch", "1")
    assert (first != cv2.imread(str(tmp_path / "samples.png"))).any()
    assert cv2.imread(str(tmp_path / "plain.png")).any()


def test_show_needs_a_file_it_can_write(run):
    code, _, err = run("show", "shapes.yaml", "--output", "nowhere/at/all.png")
    assert code == 2
    assert "nowhere/at/all.png cannot be written" in err


@pytest.mark.parametrize("verb", ["verify", "stats", "show"])
def test_every_verb_works_on_generated_data(run, verb):
    code, _, err = run(verb, "quickstart", "--toy")
    assert (code, err) == (0, "")


@pytest.mark.parametrize("verb", ["verify", "stats", "show"])
def test_a_data_set_that_is_not_there_is_one_sentence(run, verb):
    code, out, err = run(verb, "shapes.yaml", "data.root=elsewhere")
    assert code == (1 if verb == "verify" else 2)
    assert "elsewhere: there is no such folder (data.root)." in out + err


def test_anchors_prints_what_a_recipe_takes(run, tmp_path):
    CocoData.write_toy(tmp_path / "coco")
    (tmp_path / "boxes.yaml").write_text(
        "data: {name: coco, root: coco, image_size: 64, resize: squash, num_workers: 0}\n"
    )
    code, out, err = run("anchors", "boxes.yaml", "--levels", "3", "--stride", "8", "--json")
    assert (code, err) == (0, "")
    *lines, last = out.splitlines()
    found = json.loads(last)
    assert found["anchors"]["strides"] == [8, 16, 32]
    assert found["fitted"]["mean_iou"] > found["usual"]["mean_iou"]
    pasted = yaml.safe_load("\n".join(line for line in lines if line.startswith("model.")))
    assert pasted == {
        "model.network.anchor_sizes": [[size] for size in found["anchors"]["sizes"]],
        "model.network.aspect_ratios": found["anchors"]["ratios"],
    }
    assert f"{found['fitted']['mean_iou']:.3f}" in out


def test_anchors_need_boxes(run):
    code, _, err = run("anchors", "shapes.yaml")
    assert code == 2
    assert "ImageFolder: its samples have no boxes to fit anchors to." in err


@pytest.mark.parametrize("kind", ["jpeg", "raw"])
def test_prepare_makes_what_training_then_reads(run, kind, tmp_path):
    asked = ("shapes.yaml", f"data.cache={kind}")
    code, _, err = run("stats", *asked)
    assert code == 2
    assert "run `lit-imgproc data prepare` with this recipe" in err
    code, out, _ = run("prepare", *asked)
    assert code == 0
    folder = tmp_path / out.split("prepared ")[-1].strip()
    (part,) = folder.glob("*.part")
    assert run("stats", *asked)[0] == 0
    content = bytearray(part.read_bytes())
    content[50] ^= 1
    part.write_bytes(content)
    code, out, _ = run("verify", *asked)
    assert code == 1
    assert f"{part.name}: this part is damaged" in out
    assert run("prepare", *asked)[0] == 0
    assert run("verify", *asked)[0] == 0


def test_prepare_says_where_there_is_nothing_to_prepare(run):
    code, _, err = run("prepare", "shapes.yaml")
    assert code == 2
    assert "data.cache is null, which needs no preparation: set it to jpeg or raw." in err


def test_prepare_writes_shards_that_a_recipe_can_stream(run, tmp_path):
    code, out, _ = run("prepare", "shapes.yaml", "data.cache=jpeg", "--shards", "shards")
    assert code == 0
    assert out.endswith("prepared shards\n")
    (tmp_path / "streamed.yaml").write_text(
        "data: {name: sharded_images, root: shards, num_workers: 0}\n"
    )
    code, out, _ = run("stats", "streamed.yaml", "--json")
    assert code == 0
    assert json.loads(out.splitlines()[-1])["train"]["images"] == 48
    assert run("prepare", "quickstart", "--shards", "elsewhere")[0] == 2

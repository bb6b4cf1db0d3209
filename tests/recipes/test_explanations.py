"""A run that explains itself: from files, validation images and arrays, onto a page."""

import json
import shutil
from functools import partial

import cv2
import numpy as np
import pytest
from levels import run_of, segmenter
from mlflow.tracking import MlflowClient

from lit_imgproc import load_recipe, load_run
from lit_imgproc.data.imagenet.datamodule import Digits
from lit_imgproc.errors import UserError
from lit_imgproc.explain.methods import METHODS
from lit_imgproc.inputs import InputSpec
from lit_imgproc.models.base import ImageModule
from lit_imgproc.recipes.explanations import class_number

NAMES = ["roof", "road"]


@pytest.fixture(scope="module")
def trained(empty_store, tmp_path_factory):
    """A run on toy digits; its id and store."""
    folder = tmp_path_factory.mktemp("explained")
    Digits.write_toy(folder / "digits")
    shutil.copy(empty_store, folder / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run = load_recipe(
            "quickstart", "trainer.accelerator=cpu", "trainer.max_epochs=2",
            "trainer.log_every_n_steps=1", "data.batch_size=16", "data.num_workers=0",
            "callbacks.explain=null", "callbacks.predictions=null",
            f"data.root={folder / 'digits'}", f"tracking.uri=sqlite:///{folder}/mlflow.db",
            f"tracking.artifacts={folder / 'artifacts'}",
        ).train()  # fmt: skip
    return run.id, run.uri


@pytest.fixture
def run(trained):
    return load_run(trained[0], uri=trained[1])


@pytest.fixture
def streets():
    """A run that segments by brightness: what is white is road."""
    spec = InputSpec(3, (60, 80), "fit", interpolation="nearest")
    data = {"name": "coco", "target": "semantic"}
    return run_of(data, spec, segmenter(NAMES, [0.0, 1.0]))


def street(path):
    """An image of twice the size that the network sees, whose left quarter is road."""
    pixels = np.zeros((120, 160, 3), np.uint8)
    pixels[:, :40] = 255
    cv2.imwrite(str(path), pixels)
    return path


# What is explained -------------------------------------------------------------------------------


def test_an_array_is_explained_by_arrays(run):
    report = run.explain(np.zeros((20, 30), np.uint8), methods=["grad_cam", "occlusion"])
    (one,) = report.explanations
    assert (one.id, one.truth, one.target_name) == ("0", "", one.prediction["label"])
    assert one.image.shape == (1, 28, 28)
    assert {name: heat.shape for name, heat in one.maps.items()} == {
        "grad_cam": (28, 28), "occlusion": (28, 28)
    }  # fmt: skip
    assert report.means == {}


def test_without_images_those_of_validation_are_explained_with_their_truth(run):
    found = run.explain(count=3, methods=["grad_cam"]).explanations
    assert [one.truth for one in found] == ["0", "1", "2"]
    assert len({one.id for one in found}) == 3
    assert max(one.maps["grad_cam"].max() for one in found) > 0


def test_every_method_for_cnns_explains_a_run(run):
    methods = [name for name in METHODS if not name.startswith("attention")]
    (one,) = run.explain(count=1, methods=methods, target=3).explanations
    assert list(one.maps) == methods
    assert one.target_name == "3"
    # The values of Shapley and of integrated gradients add up to differences of logits.
    assert abs(one.maps["kernel_shap"].sum()) > 0


def test_attention_of_a_cnn_is_refused_in_a_sentence(run):
    with pytest.raises(UserError, match="grad_cam"):
        run.explain(count=1, methods=["attention_rollout"])


def test_a_box_is_no_question_for_a_classifier(run):
    with pytest.raises(UserError, match="no box can be explained"):
        run.explain(count=1, box=(0, 0, 5, 5))


@pytest.mark.parametrize(("target", "number"), [("road", 1), (1, 1), ("1", 1), ("roof", 0)])
def test_a_class_by_its_name_or_number(target, number):
    assert class_number(NAMES, target) == number


def test_a_class_that_is_none():
    with pytest.raises(UserError, match=r"no class .rood.: .* 2 classes, such as ro"):
        class_number(NAMES, "rood")
    with pytest.raises(UserError, match="no class 2:"):
        class_number(NAMES, 2)


def test_a_module_without_classes_says_that_it_cannot_be_explained(run, monkeypatch):
    module = run.module
    monkeypatch.delattr(module, "class_names")
    monkeypatch.setattr(module, "predict_step", lambda batch, _: [{"id": batch["id"][0]}])
    monkeypatch.setattr(
        module, "attribution_targets", partial(ImageModule.attribution_targets, module)
    )
    with pytest.raises(UserError, match="Classifier does not say what could be explained"):
        run.explain(count=1)


def test_names_go_before_numbers():
    """Of digits whose names are in another order."""
    assert class_number(["1", "0"], "1") == 0


def test_a_region_is_asked_for_in_pixels_of_the_file(streets, tmp_path):
    file = street(tmp_path / "a.png")
    (one,) = streets.explain(file, methods=["occlusion"], box=(0, 0, 40, 60)).explanations
    assert one.target_name == "road"
    region = one.target.region.numpy()
    assert region[:30, :20].all()
    assert region.sum() == 30 * 20


def test_annotations_are_what_maps_have_to_point_at(run, tmp_path):
    files = []
    for number in range(2):
        files.append(tmp_path / f"{number}.png")
        cv2.imwrite(str(files[-1]), np.full((56, 56), 40 * number, np.uint8))
    truth = {
        "images": [{"id": 7 + k, "file_name": f"{k}.png"} for k in range(2)],
        "categories": [{"id": 5, "name": "3"}, {"id": 6, "name": "none of the run's"}],
        "annotations": [
            {"image_id": 7, "category_id": 5, "bbox": [0, 0, 56, 56]},
            {"image_id": 8, "category_id": 6, "bbox": [0, 0, 56, 56]},
        ],
    }
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(truth))
    report = run.explain(files, methods=["occlusion"], target="3", annotations=path, measure=True)
    pointing = [one.numbers["occlusion"].get("pointing") for one in report.explanations]
    assert pointing == [1.0, None]

    with pytest.raises(UserError, match="annotations are of image files"):
        run.explain(methods=["occlusion"], annotations=path)
    truth["categories"] = truth["categories"][1:]
    path.write_text(json.dumps(truth))
    with pytest.raises(UserError, match=r"none of its categories .* is a class of the run"):
        run.explain(files, methods=["occlusion"], annotations=path)


# What is written ---------------------------------------------------------------------------------


def test_a_page_pictures_and_numbers_are_written_and_recorded(run, tmp_path):
    report = run.explain(count=2, methods=["grad_cam", "occlusion"], measure=True)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("not for the record")
    page = run.write_explanations(report, tmp_path / "out", features=True)
    (tmp_path / "out" / "mine.txt").unlink()
    assert page == tmp_path / "out" / "index.html"
    text = page.read_text()
    assert "Occlusion" in text
    assert "Filters" in text
    assert "http://" not in text
    written = sorted(path.name for path in page.parent.iterdir())
    stems = [one.id.rsplit("/")[-1] for one in report.explanations]
    assert written == [f"000-{stems[0]}.png", f"001-{stems[1]}.png", "index.html", "numbers.json"]
    assert cv2.imread(str(page.parent / written[0])).shape[2] == 3

    numbers = json.loads((page.parent / "numbers.json").read_text())
    assert numbers["means"]["grad_cam"] == report.means["grad_cam"]
    assert [one["id"] for one in numbers["images"]] == [one.id for one in report.explanations]

    client = MlflowClient(run.uri)
    (folder,) = client.list_artifacts(run.id, "explanations")
    logged = {item.path.rsplit("/")[-1] for item in client.list_artifacts(run.id, folder.path)}
    assert logged == set(written)
    record = client.get_run(run.id)
    metrics = record.data.metrics
    assert record.info.status == "FINISHED"
    assert metrics["explain/grad_cam.insertion"] == report.means["grad_cam"]["insertion"]
    assert metrics["explain/grad_cam.similarity"] == report.similarity["grad_cam"][-1]
    assert (
        metrics["explain/grad_cam.agreement.occlusion"]
        == (report.agreement["occlusion"]["grad_cam"])
    )
    assert 0 <= metrics["explain/dead_filters"] <= 1
    assert 0 <= metrics["explain/neighbours"] <= 1


def test_a_page_is_not_replaced_unless_asked(run, tmp_path):
    report = run.explain(count=1, methods=["grad_cam"])
    run.write_explanations(report, tmp_path)
    with pytest.raises(UserError, match=r"index\.html is there already: .*--overwrite"):
        run.write_explanations(report, tmp_path)
    run.write_explanations(report, tmp_path, overwrite=True)

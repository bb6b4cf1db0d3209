"""What of the data was not used, or mended, is in the run."""

import mlflow
import pytest
import yaml

from lit_imgproc import load_recipe
from lit_imgproc.data.base import DataError
from lit_imgproc.data.imagenet.datamodule import ImageFolder

RECIPE = """\
extends: base/classification.yaml
model: {network: {name: test_resnet}}
data: {name: image_folder, root: shapes, image_size: 32, num_workers: 0, batch_size: 8}
trainer: {max_epochs: 1, limit_train_batches: 2, limit_val_batches: 1, accelerator: cpu}
callbacks: {explain: null, predictions: null}
"""


@pytest.fixture
def recipe(store, tmp_path):
    ImageFolder.write_toy(tmp_path / "shapes")
    (tmp_path / "shapes/train/disc/disc_2.jpg").write_bytes(b"")
    path = tmp_path / "shapes.yaml"
    path.write_text(RECIPE)
    where = (f"tracking.uri={store.uri}", f"tracking.artifacts={store.artifacts}")
    return lambda *overrides: load_recipe(path, *where, *overrides)


def test_a_file_that_cannot_be_used_stops_the_training_before_it_begins(recipe):
    experiment = recipe()
    with pytest.raises(DataError, match=r"train/disc/disc_2\.jpg"):
        experiment.train()
    assert experiment.run_id is None


def test_what_is_left_out_is_counted_and_listed_in_the_run(recipe, store):
    run = recipe("data.on_error=skip").train()
    assert run.metrics["data/left_out"] == 1
    path = mlflow.artifacts.download_artifacts(
        run_id=run.id, artifact_path="provenance/left_out.txt", tracking_uri=store.uri
    )
    with open(path) as file:
        assert "train/disc/disc_2.jpg" in file.read()
    assert run.datamodule.splits()["train"] == 47


def test_what_was_mended_is_counted_in_the_run(recipe, store, monkeypatch, tmp_path):
    (tmp_path / "shapes/train/disc/disc_2.jpg").unlink()
    read = ImageFolder.read

    def mending(self):
        self.repaired.update({"boxes cut at the image's edge": 3})
        return read(self)

    monkeypatch.setattr(ImageFolder, "read", mending)
    run = recipe().train()
    assert run.metrics["data/repaired"] == 3
    path = mlflow.artifacts.download_artifacts(
        run_id=run.id, artifact_path="provenance/repaired.yaml", tracking_uri=store.uri
    )
    with open(path) as file:
        assert yaml.safe_load(file) == {"boxes cut at the image's edge": 3}

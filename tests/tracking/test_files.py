import re

import numpy as np
import pytest
from mlflow.tracking import MlflowClient

from lit_imgproc.tracking.files import write_file, write_image

UUID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"


@pytest.mark.parametrize("shape", [(300, 400, 3), (4, 6), (6, 4, 1)])
def test_images_are_what_mlflow_itself_writes(store, tmp_path, shape):
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    client = MlflowClient(store.uri)
    run = client.create_run(client.create_experiment("x", store.artifacts))
    client.log_image(run.info.run_id, image, key="maps/sneaker", step=3, timestamp=5)
    theirs = sorted((tmp_path / run.info.artifact_uri / "images").iterdir())
    ours = write_image(tmp_path / "ours", "maps/sneaker", image, 3, 5)
    assert sorted(re.sub(UUID, "", path) for path in ours) == sorted(
        re.sub(UUID, "", f"images/{path.name}") for path in theirs
    )
    contents = {path.suffix: path.read_bytes() for path in theirs}
    for path in ours:
        assert (tmp_path / "ours" / path).read_bytes() == contents[f".{path.rpartition('.')[2]}"]


def test_a_file_is_replaced_whole_and_nothing_is_left_beside_it(tmp_path):
    target = tmp_path / "provenance" / "git.json"
    assert write_file(target, b"first")
    assert write_file(target, b"second")
    assert [(path, path.read_bytes()) for path in target.parent.iterdir()] == [(target, b"second")]


def test_a_file_that_cannot_be_written_is_said(tmp_path, caplog):
    (tmp_path / "in the way").write_text("")
    assert not write_file(tmp_path / "in the way" / "x.txt", b"")
    assert "x.txt cannot be written, dropped" in caplog.text

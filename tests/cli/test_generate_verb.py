"""`lit-imgproc generate`, and what it writes."""

import json
import sys

import cv2
import pytest
import torch

from lit_imgproc.cli import main
from lit_imgproc.errors import UserError
from lit_imgproc.models.gan.module import GAN
from lit_imgproc.models.gan.networks import DCGANDiscriminator, DCGANGenerator
from lit_imgproc.optim import Adam
from lit_imgproc.recipes.generation import generate, numbers


class Told:
    """A run that holds a generator, and says what it was asked."""

    id = "5e69ab12cd"

    def __init__(self, module):
        self.module, self.asked = module, None

    def generate(self, folder, **options):
        self.asked = folder, options
        return [folder / "seed0000.png", folder / "grid.png"]


def gan(conditional):
    torch.manual_seed(0)
    told = {"image_size": [8, 8], "in_channels": 1, "width": 4, "conditional": conditional}
    return GAN(
        network=DCGANGenerator(**told, num_classes=3),
        discriminator=DCGANDiscriminator(**told, num_classes=3),
        optimizer=Adam(lr=1e-3),
        features="pixels",
        class_names=["cat", "dog", "hen"],
        num_classes=3,
    ).eval()


@pytest.fixture
def verb(monkeypatch, capsys):
    """Run the verb: the run, exit code, lines of output, errors."""

    def verb(*arguments):
        run = Told(None)
        monkeypatch.setattr("lit_imgproc.recipes.run.load_run", lambda *_, **__: run)
        monkeypatch.setattr(sys, "argv", ["lit-imgproc", "generate", "5e", *map(str, arguments)])
        with pytest.raises(SystemExit) as ending:
            main()
        out, errors = capsys.readouterr()
        return run, ending.value.code, out.splitlines(), errors

    return verb


def write(folder, *, conditional=False, **options):
    asked = {
        "seeds": range(4), "label": None, "truncation": 1.0, "grid": False, "interpolate": None,
        "mix": None, "project": None, "steps": 10, "overwrite": False,
    }  # fmt: skip
    return generate(Told(gan(conditional)), folder, **{**asked, **options})


def test_what_is_asked_reaches_the_run(verb, tmp_path):
    run, code, lines, errors = verb(
        tmp_path, "--seeds", "0-2,7", "--label", "Sneaker", "--truncation", "0.7", "--grid",
        "--interpolate", "8", "--mix", "0-3", "--project", "a.png", "--steps", "50", "--overwrite",
        "--json",
    )  # fmt: skip
    assert (code, errors) == (0, "")
    folder, options = run.asked
    assert folder == tmp_path
    assert str(options.pop("project")) == "a.png"
    assert options == {
        "seeds": [0, 1, 2, 7], "label": "Sneaker", "truncation": 0.7, "grid": True,
        "interpolate": 8, "mix": [0, 1, 2, 3], "steps": 50, "overwrite": True,
    }  # fmt: skip
    assert lines[0] == f"2 files in {tmp_path}, the last of them grid.png"
    assert json.loads(lines[-1])["files"][0].endswith("seed0000.png")


def test_without_more_it_is_64_seeds(verb, tmp_path):
    run, *_ = verb(tmp_path)
    _, options = run.asked
    assert options["seeds"] == list(range(64))
    assert options["mix"] is None


def test_seeds_that_cannot_be_read_are_said(verb, tmp_path):
    _, code, _, errors = verb(tmp_path, "--seeds", "three")
    assert code == 2
    assert "'three': numbers are written as 0-7" in errors
    assert numbers("3,5-7,1") == [3, 5, 6, 7, 1]


def test_an_image_a_seed_and_a_grid(tmp_path):
    files = write(tmp_path / "new", seeds=[3, 1, 12])
    names = ["seed0003.png", "seed0001.png", "seed0012.png", "grid.png"]
    assert [file.name for file in files] == names
    image = cv2.imread(str(files[0]), cv2.IMREAD_UNCHANGED)
    expected = gan(False).generate([3])[0, 0].mul(255).round().byte().numpy()
    assert (image == expected).all()
    grid = cv2.imread(str(files[-1]), cv2.IMREAD_UNCHANGED)
    assert grid.shape[:2] == (2 * 10 + 2, 2 * 10 + 2)


def test_a_column_for_each_class_and_the_grid_alone(tmp_path):
    (grid,) = write(tmp_path, conditional=True, seeds=range(6), grid=True)
    assert cv2.imread(str(grid)).shape[:2] == (2 * 10 + 2, 3 * 10 + 2)
    assert [file.name for file in tmp_path.iterdir()] == ["grid.png"]


def test_an_interpolation_is_a_row_for_each_two_seeds(tmp_path):
    (sheet,) = write(tmp_path, conditional=True, label="dog", interpolate=4)
    assert sheet.name == "interpolation.png"
    assert cv2.imread(str(sheet)).shape[:2] == (3 * 10 + 2, 5 * 10 + 2)


def test_nothing_is_replaced_unless_it_is_asked_for(tmp_path):
    files = write(tmp_path)
    before = [file.read_bytes() for file in files]
    with pytest.raises(UserError, match=r"seed0003.png is there already.*--overwrite"):
        write(tmp_path, seeds=[5, 3])
    assert not (tmp_path / "seed0005.png").exists()
    assert [file.read_bytes() for file in files] == before
    write(tmp_path, truncation=0.0, overwrite=True)
    assert files[1].read_bytes() != before[1]


def test_what_a_run_cannot_make_is_said_in_a_sentence(tmp_path):
    out = tmp_path / "out"
    for options, said in [
        ({"mix": [0]}, "no styles to mix"),
        ({"project": tmp_path / "a.png"}, "no styles to mix or to project"),
        ({"label": "cat"}, "of no class on demand"),
        ({"label": "cow", "conditional": True}, "there is no class 'cow'"),
        ({"seeds": [1], "interpolate": 3}, "give at least two"),
        ({"seeds": []}, "no seeds"),
    ]:
        with pytest.raises(UserError, match=said):
            write(out, **options)
    with pytest.raises(UserError, match="it is no GAN but a Linear"):
        generate(
            Told(torch.nn.Linear(1, 1)), out, seeds=[0], label=None, truncation=1.0, grid=False,
            interpolate=None, mix=None, project=None, steps=1, overwrite=False,
        )  # fmt: skip
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a file"):
        write(tmp_path / "file")
    assert not out.exists()

"""`lit-imgproc stylize`."""

import json
import sys
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from lit_imgproc.cli import main
from lit_imgproc.models.base import ImageModule
from lit_imgproc.models.style_transfer.module import AdaIN, StyleTransfer
from lit_imgproc.models.style_transfer.networks import adain_decoder, johnson
from lit_imgproc.optim import Adam
from lit_imgproc.recipes import stylization
from lit_imgproc.recipes.run import Run


def run_of(module):
    run = Run(SimpleNamespace(info=SimpleNamespace(run_id="5e69")), "sqlite:///none.db")
    run.__dict__["module"] = module.eval()
    return run


@pytest.fixture
def stylize(monkeypatch, capsys, tmp_path):
    """Run the verb in this process, maybe on a given run: exit code, lines of output, errors."""
    monkeypatch.setattr(
        stylization.Settings, "__init__", _with_random_filters(stylization.Settings.__init__)
    )

    def stylize(*arguments, run=None):
        monkeypatch.setattr("lit_imgproc.recipes.run.load_run", lambda *_, **__: run)
        words = ["lit-imgproc", "stylize", *map(str, arguments), "--output", str(tmp_path / "out")]
        monkeypatch.setattr(sys, "argv", words + (["--run", "5e"] if run else []))
        with pytest.raises(SystemExit) as ending:
            main()
        out, errors = capsys.readouterr()
        return ending.value.code, out.splitlines(), errors

    return stylize


def _with_random_filters(init):
    def changed(self, **given):
        init(self, **{"filters": "vgg_random", **given})

    return changed


def write(path, height, width, seed=0):
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), np.uint8)
    path.parent.mkdir(exist_ok=True)
    cv2.imwrite(str(path), cv2.resize(coarse, (width, height)))
    return path


@pytest.fixture
def photo(tmp_path):
    return write(tmp_path / "photos" / "a.png", 48, 64)


@pytest.fixture
def painting(tmp_path):
    return write(tmp_path / "painting.png", 40, 56, seed=1)


def one_style():
    torch.manual_seed(0)
    return run_of(
        StyleTransfer(
            network=johnson(4), style="stripes", optimizer=Adam(lr=1), filters="vgg_random"
        )
    )


def any_style():
    torch.manual_seed(0)
    return run_of(AdaIN(network=adain_decoder(4), optimizer=Adam(lr=1), filters="vgg_random"))


def read(tmp_path, name="a"):
    record = json.loads((tmp_path / "out" / f"{name}.json").read_text())
    return cv2.imread(str(tmp_path / "out" / f"{name}.png")), record


def test_without_a_run_the_pixels_are_optimised(stylize, photo, painting, tmp_path):
    code, lines, errors = stylize(photo, "--style", painting, "--steps", 2, "--json")
    assert (code, errors) == (0, "")
    assert lines[0].startswith(f"{tmp_path}/out/a.png: loss ")
    image, record = read(tmp_path)
    assert image.shape == (48, 64, 3)
    assert record["size"] == [48, 64]
    assert record["settings"]["steps"] == 2
    assert len(record["history"]) >= 2
    assert record["losses"].keys() == {"loss", "content_loss", "style_loss", "tv"}
    assert record["seconds"] > 0
    said = json.loads(lines[-1])["images"]
    assert said == [{key: value for key, value in record.items() if key != "history"}]


def test_nothing_is_replaced_unasked(stylize, photo, painting, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.json").write_text("mine")
    code, _, errors = stylize(photo, "--style", painting, "--steps", 1)
    assert code == 2
    assert "a.json is there already: give another folder, or --overwrite" in errors
    assert not (tmp_path / "out" / "a.png").exists()
    code, _, _ = stylize(photo, "--style", painting, "--steps", 1, "--overwrite")
    assert code == 0
    assert read(tmp_path)[1]["content"] == str(photo)


def test_a_run_of_one_style_redraws_a_folder_at_the_sizes_of_its_files(stylize, photo, tmp_path):
    write(photo.parent / "b.jpg", 37, 51)
    run = one_style()
    code, lines, errors = stylize(photo.parent, run=run)
    assert (code, errors) == (0, "")
    assert len(lines) == 2
    image, record = read(tmp_path)
    assert image.shape == (48, 64, 3)
    assert record["run_id"] == "5e69"
    assert read(tmp_path, "b")[0].shape == (37, 51, 3)
    pixels = torch.from_numpy(cv2.imread(str(photo))[..., ::-1].copy()).permute(2, 0, 1) / 255
    with torch.no_grad():
        made = run.module(pixels[None])[0].clamp(0, 1).mul(255).round().byte()
    np.testing.assert_array_equal(image[..., ::-1], made.permute(1, 2, 0).numpy())


def test_a_run_of_any_style_mixes_styles_and_weakens_them(stylize, photo, painting, tmp_path):
    other = write(tmp_path / "other.png", 48, 48, seed=2)
    images = []
    for words in (
        ("--style", painting),
        ("--style", painting, "--style", other),
        ("--style", painting, "--alpha", 0),
        ("--style", other, "--alpha", 0),
    ):
        code, _, errors = stylize(photo, *words, "--overwrite", run=any_style())
        assert (code, errors) == (0, "")
        images.append(read(tmp_path)[0].astype(int))
    assert images[0].shape == (48, 64, 3)
    np.testing.assert_array_equal(images[2], images[3])
    assert read(tmp_path)[1]["settings"]["alpha"] == 0


def test_the_size_can_be_chosen(stylize, photo, tmp_path):
    assert stylize(photo, "--size", 96, run=one_style())[0] == 0
    assert read(tmp_path)[0].shape == (72, 96, 3)


def test_colours_can_be_kept(stylize, photo, painting, tmp_path):
    words = ("--style", painting, "--keep-colours", "luminance", "--steps", 1)
    assert stylize(photo, *words)[0] == 0
    made, before = read(tmp_path)[0].astype(int), cv2.imread(str(photo)).astype(int)
    inside = ((made > 2) & (made < 253)).all(2)  # where nothing was cut off at black or white
    assert inside.mean() > 0.5
    chroma, kept = (image - image[..., 1:2] for image in (made, before))
    assert np.abs(chroma - kept)[inside].max() <= 2
    code, _, errors = stylize(photo, "--keep-colours", "histogram", run=one_style())
    assert code == 2
    assert "take --keep-colours luminance" in errors


class Other(ImageModule):
    """A module of another kind."""


@pytest.mark.parametrize(
    ("run", "words", "sentence"),
    [
        (lambda: None, (), "without --run there is one --style"),
        (one_style, ("--style",), "run 5e69 knows one style, which it was trained for"),
        (any_style, (), "run 5e69 redraws in any style: give --style a picture"),
        (lambda: run_of(Other()), (), "run 5e69 is no style transfer (Other)"),
    ],
)
def test_what_does_not_fit_is_said_in_a_sentence(run, words, sentence, stylize, photo, painting):
    code, _, errors = stylize(photo, *words, *([painting] if words else []), run=run())
    assert code == 2
    assert sentence in errors


def test_files_that_are_not_there_are_named(stylize, tmp_path, painting):
    code, _, errors = stylize(tmp_path / "gone.png", "--style", painting)
    assert code == 2
    assert "there is no file or folder" in errors

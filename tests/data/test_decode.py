import numpy as np
import pytest
from PIL import Image, ImageOps

from lit_imgproc.data.base import DataError
from lit_imgproc.data.decode import read_image


@pytest.fixture(scope="module")
def photo():
    random = np.random.default_rng(0)
    small = Image.fromarray(random.integers(0, 256, (12, 16, 3), np.uint8))
    return small.resize((80, 60), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1"])
@pytest.mark.parametrize("channels", [1, 3])
def test_png_of_every_mode_is_decoded_as_pil_does(photo, tmp_path, mode, channels):
    photo.convert(mode).save(tmp_path / "photo.png")
    expected = np.array(Image.open(tmp_path / "photo.png").convert("RGB" if channels == 3 else "L"))
    image = read_image(tmp_path / "photo.png", channels)
    assert image.shape == (60, 80, channels)
    # Grey is a weighted sum, which the two round differently.
    difference = image.astype(int) - expected.reshape(image.shape)
    assert np.abs(difference).max() <= (1 if channels == 1 else 0)


@pytest.mark.parametrize("suffix", ["jpg", "bmp", "webp", "tif", "ppm"])
def test_other_formats_are_decoded_as_pil_does(photo, tmp_path, suffix):
    path = tmp_path / f"photo.{suffix}"
    photo.save(path)
    expected = np.array(Image.open(path).convert("RGB")).astype(int)
    assert np.abs(read_image(path, 3) - expected).max() <= 1


def test_cmyk_jpeg_becomes_rgb(photo, tmp_path):
    photo.convert("CMYK").save(tmp_path / "photo.jpg")
    expected = np.array(Image.open(tmp_path / "photo.jpg").convert("RGB")).astype(int)
    assert np.abs(read_image(tmp_path / "photo.jpg", 3) - expected).max() <= 2


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(photo, tmp_path, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    photo.save(tmp_path / "photo.jpg", exif=exif)
    expected = np.array(ImageOps.exif_transpose(Image.open(tmp_path / "photo.jpg"))).astype(int)
    assert np.abs(read_image(tmp_path / "photo.jpg", 3) - expected).max() <= 1


def test_a_deep_image_is_refused(tmp_path):
    Image.fromarray(np.full((8, 8), 4000, np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(DataError, match=r"deep\.png: has uint16 pixels"):
        read_image(tmp_path / "deep.png", 3)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp", "tif"])
@pytest.mark.parametrize("kept", [0.5, 0.95])
def test_a_file_that_is_cut_short_is_refused(photo, tmp_path, suffix, kept):
    path = tmp_path / f"cut.{suffix}"
    photo.save(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(DataError, match=rf"cut\.{suffix}: "):
        read_image(path, 3)


def test_a_jpeg_with_a_thumbnail_that_is_cut_short_is_refused(photo, tmp_path):
    photo.resize((16, 12)).save(tmp_path / "thumbnail.jpg")
    thumbnail = (tmp_path / "thumbnail.jpg").read_bytes()
    photo.save(tmp_path / "photo.jpg")
    data = (tmp_path / "photo.jpg").read_bytes()
    segment = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    whole = data[:2] + segment + data[2:]
    (tmp_path / "photo.jpg").write_bytes(whole)
    assert read_image(tmp_path / "photo.jpg", 3).shape == (60, 80, 3)
    (tmp_path / "photo.jpg").write_bytes(whole[: int(len(whole) * 0.9)])
    with pytest.raises(DataError, match="cut short"):
        read_image(tmp_path / "photo.jpg", 3)


@pytest.mark.parametrize("content", [b"", b"no image", b"\xff\xd8\xff\xd9", None])
def test_what_is_no_image_is_named(tmp_path, content):
    path = tmp_path / "broken.jpg"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=r"broken\.jpg: "):
        read_image(path, 3)

import io
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from lit_imgproc.data.base import DataError
from lit_imgproc.data.decode import Encoded, read_image


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
    with pytest.raises(DataError, match=r"deep\.png: has 16 bits a channel where 8"):
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


def jpeg(photo, **options):
    stream = io.BytesIO()
    photo.save(stream, "JPEG", **options)
    return stream.getvalue()


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"subsampling": 0}, {"quality": 30}]
)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_jpegs_are_decoded_to_the_pixels_of_pil(photo, mode, options):
    data = jpeg(photo.convert(mode), **options)
    expected = np.array(Image.open(io.BytesIO(data)).convert("RGB"))
    image = Encoded(data, "photo.jpg", 3).decode()
    np.testing.assert_array_equal(image, expected)
    assert image.flags.writeable
    grey = Encoded(data, "photo.jpg", 1).decode()
    luma = Image.open(io.BytesIO(data))
    luma.draft("L", luma.size)
    np.testing.assert_array_equal(grey[..., 0], np.array(luma))


def adobe(data, transform):
    """A JPEG whose Adobe segment names another transform of its colours: 2 is YCCK."""
    at = data.index(b"Adobe") + 11
    return data[:at] + bytes([transform]) + data[at + 1 :]


@pytest.mark.parametrize("transform", [0, 2])
@pytest.mark.parametrize("channels", [1, 3])
def test_cmyk_and_ycck_are_converted_as_pil_does(photo, transform, channels):
    inks = np.dstack([np.array(photo), np.array(photo.convert("L")) // 2])  # some black, too
    data = adobe(jpeg(Image.fromarray(inks, "CMYK"), quality=95), transform)
    expected = Image.open(io.BytesIO(data)).convert("RGB")
    expected = np.array(expected if channels == 3 else expected.convert("L")).astype(int)
    image = Encoded(data, "photo.jpg", channels).decode()
    assert np.abs(image - expected.reshape(image.shape)).max() <= 2


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_of_other_formats(photo, kind, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    stream = io.BytesIO()
    photo.save(stream, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    encoded = Encoded(stream.getvalue(), "photo", 3)
    expected = np.array(ImageOps.exif_transpose(Image.open(stream)).convert("RGB"))
    assert encoded.shape == expected.shape
    np.testing.assert_array_equal(encoded.decode(), expected)


@pytest.mark.parametrize("factor", [2, 4, 8])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_a_jpeg_at_a_fraction_of_its_size_is_its_average(photo, factor, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    encoded = Encoded(jpeg(photo.resize((160, 96)), exif=exif, quality=95), "photo.jpg", 3)
    whole = encoded.decode()
    small = encoded.decode(factor)
    assert small.shape == (whole.shape[0] // factor, whole.shape[1] // factor, 3)
    average = cv2.resize(whole, small.shape[1::-1], interpolation=cv2.INTER_AREA).astype(int)
    assert np.abs(small - average).mean() < 3
    odd = Encoded(jpeg(photo.crop((0, 0, 61, 47))), "odd.jpg", 3).decode(factor)
    assert odd.shape == (-(-47 // factor), -(-61 // factor), 3)


def test_repeated_colours_are_near_interpolated_ones(photo):
    encoded = Encoded(jpeg(photo.resize((320, 240), Image.Resampling.BICUBIC)), "photo.jpg", 3)
    difference = encoded.decode(smooth=False).astype(float) - encoded.decode()
    assert 0 < np.sqrt((difference**2).mean()) < 4
    assert np.abs(difference.mean((0, 1))).max() < 0.3


def damaged(data, how):
    middle = len(data) // 2
    if how == "cut, but ended":
        return data[:middle] + b"\xff\xd9"
    if how == "zeros":
        return data[:middle] + bytes(len(data) // 4) + data[middle + len(data) // 4 :]
    return data[: int(len(data) * 0.9)]


@pytest.mark.parametrize("how", ["cut, but ended", "zeros", "cut"])
@pytest.mark.parametrize("factor", [1, 2])
def test_what_libjpeg_would_fill_with_grey_is_refused(photo, how, factor):
    data = damaged(jpeg(photo.resize((320, 240)), quality=90), how)
    with pytest.raises(DataError, match=r"^photo\.jpg: the JPEG is damaged or cut short"):
        Encoded(data, "photo.jpg", 3).decode(factor)


def test_what_libjpeg_warns_of_without_a_loss_is_read(photo):
    data = jpeg(photo)
    at = data.index(b"\xff\xda") + 4
    at += 1 + 2 * data[at]  # where the scan says which coefficients it has: 0 to 63
    odd = data[:at] + bytes([0, 62]) + data[at + 2 :]
    image = Encoded(odd, "photo.jpg", 3).decode()
    np.testing.assert_array_equal(image, Encoded(data, "photo.jpg", 3).decode())
    behind = Encoded(data + b"what a camera puts behind", "photo.jpg", 3)
    np.testing.assert_array_equal(behind.decode(), image)


def test_a_png_with_a_wrong_checksum_is_refused(photo, tmp_path):
    stream = io.BytesIO()
    photo.save(stream, "PNG")
    data = bytearray(stream.getvalue())
    data[len(data) // 2] ^= 0xFF
    (tmp_path / "photo.png").write_bytes(data)
    with pytest.raises(DataError, match=r"photo\.png: the PNG is damaged"):
        read_image(tmp_path / "photo.png", 3)


def huge(kind, side=2**15):
    """A few bytes that claim to be an image of ``side`` times ``side`` pixels."""
    if kind == "png":
        header = b"IHDR" + side.to_bytes(4, "big") * 2 + b"\x08\x02\0\0\0"
        chunk = b"\0\0\0\x0d" + header + zlib.crc32(header).to_bytes(4, "big")
        end = b"\0\0\0\0IDAT\x35\xaf\x06\x1e" + b"\0\0\0\0IEND\xaeB`\x82"
        return b"\x89PNG\r\n\x1a\n" + chunk + end
    data = jpeg(Image.new("RGB", (8, 8)))
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + side.to_bytes(2, "big") * 2 + data[at + 4 :]


@pytest.mark.parametrize("kind", ["png", "jpg"])
def test_a_bomb_is_refused_before_it_is_decoded(tmp_path, kind):
    path = tmp_path / f"bomb.{kind}"
    path.write_bytes(huge(kind))
    with pytest.raises(DataError, match=r"says 32768x32768 pixels, more than the limit of 268,"):
        read_image(path, 3)


def test_other_formats_are_refused_by_their_content(photo, tmp_path):
    photo.save(tmp_path / "photo.gif")
    (tmp_path / "photo.gif").rename(tmp_path / "photo.png")
    with pytest.raises(DataError, match=r"photo\.png: a GIF, which is not read here"):
        read_image(tmp_path / "photo.png", 3)

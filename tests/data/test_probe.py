import io
import struct

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from lit_imgproc.data.decode import read_image
from lit_imgproc.data.errors import DataError
from lit_imgproc.data.probe import Probe, probe, problems


def photo(height=60, width=80):
    small = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def encode(image, kind, **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def turned(kind, orientation, **options):
    exif = Image.Exif()
    exif[274] = orientation
    return encode(photo(), kind, exif=exif, **options)


def with_size(jpeg, width, height):
    """A JPEG whose frame claims to be of another size."""
    at = jpeg.index(b"\xff\xc0") + 5
    return jpeg[:at] + struct.pack(">HH", height, width) + jpeg[at + 4 :]


def with_profile(jpeg, count):
    """A JPEG with ``count`` segments of a colour profile, 64 KB each, before its frame."""
    segment = b"\xff\xe2\xff\xff" + b"ICC_PROFILE\0" + bytes(0xFFFF - 14)
    return jpeg[:2] + segment * count + jpeg[2:]


WHOLE = {
    "JPEG": encode(photo(), "JPEG"),
    "progressive JPEG": encode(photo(), "JPEG", progressive=True),
    "grey JPEG": encode(photo().convert("L"), "JPEG"),
    "CMYK JPEG": encode(photo().convert("CMYK"), "JPEG"),
    "JPEG with a large profile": with_profile(encode(photo(), "JPEG"), 3),
    "JPEG with a very large profile": with_profile(encode(photo(), "JPEG"), 20),
    "JPEG with something behind it": encode(photo(), "JPEG") + bytes(9000),
    "PNG": encode(photo(), "PNG"),
    "palette PNG": encode(photo().convert("P"), "PNG"),
    "RGBA PNG": encode(photo().convert("RGBA"), "PNG"),
    "bilevel PNG": encode(photo().convert("1"), "PNG"),
    "BMP": encode(photo(), "BMP"),
    "palette BMP": encode(photo().convert("P"), "BMP"),
    "lossy WebP": encode(photo(), "WEBP"),
    "lossless WebP": encode(photo(), "WEBP", lossless=True),
    "WebP with alpha": encode(photo().convert("RGBA"), "WEBP"),
    "PPM": encode(photo(), "PPM"),
    "PGM": encode(photo().convert("L"), "PPM"),
    "PBM": encode(photo().convert("1"), "PPM"),
    "PPM with remarks": encode(photo(), "PPM").replace(b"80 60", b"# wide\n80 # high\n60", 1),
    "TIFF": encode(photo(), "TIFF"),
    "packed TIFF": encode(photo(), "TIFF", compression="tiff_lzw"),
    "palette TIFF": encode(photo().convert("P"), "TIFF"),
}
KINDS = {"JPEG", "PNG", "BMP", "WebP", "TIFF"}


@pytest.mark.parametrize("name", WHOLE)
def test_the_size_without_decoding(tmp_path, name):
    path = tmp_path / "photo.jpg"  # whatever the name says
    path.write_bytes(WHOLE[name])
    kind = next((kind for kind in KINDS if kind in name), "PNM")
    assert probe(path) == Probe(kind, 60, 80)
    assert read_image(path, 3).shape == (60, 80, 3)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_size_is_that_of_the_upright_image(tmp_path, kind, orientation):
    path = tmp_path / f"photo.{kind.lower()}"
    path.write_bytes(turned(kind, orientation))
    found = probe(path)
    assert (found.height, found.width) == ((80, 60) if orientation > 4 else (60, 80))
    assert read_image(path, 3).shape == (found.height, found.width, 3)


def test_a_large_tiff_with_its_directory_at_the_end(tmp_path):
    path = tmp_path / "photo.tif"
    image = photo(900, 1200)
    path.write_bytes(encode(image, "TIFF", big_tiff=True))
    assert probe(path) == Probe("TIFF", 900, 1200)
    cv2.imwrite(str(path), np.asarray(image))
    assert probe(path) == Probe("TIFF", 900, 1200)


@pytest.mark.parametrize("name", [name for name in WHOLE if "PBM" not in name])
@pytest.mark.parametrize("kept", [0.02, 0.3, 0.7, 0.97])
def test_what_is_cut_short_is_found(tmp_path, name, kept):
    path = tmp_path / "photo"
    data = WHOLE[name].removesuffix(bytes(9000))
    path.write_bytes(data[: int(len(data) * kept)])
    said = probe(path)
    assert isinstance(said, str)
    assert said.startswith(f"{path}: ")
    with pytest.raises(DataError) as error:
        read_image(path, 3)
    assert str(error.value).startswith(f"{path}: ")


@pytest.mark.parametrize("seed", range(40))
def test_no_header_makes_it_crash(tmp_path, seed):
    """Bytes changed at random: a size, or a sentence."""
    random = np.random.default_rng(seed)
    path = tmp_path / "photo"
    for data in WHOLE.values():
        changed = bytearray(data[:20000])
        for at in random.integers(0, min(len(changed), 200), 3):
            changed[at] = random.integers(256)
        path.write_bytes(changed)
        said = probe(path)
        assert isinstance(said, Probe) or said.startswith(f"{path}: ")


def damaged_folder(root):
    """One of each kind of file that makes trouble: ``(those to refuse, those to read)``."""
    jpeg, png = encode(photo(), "JPEG", quality=95), encode(photo(), "PNG")
    deep = Image.fromarray(np.full((60, 80), 4000, np.uint16))
    broken = bytearray(png)
    broken[len(png) // 2] ^= 0xFF
    bad = {
        "cut.jpg": jpeg[: len(jpeg) // 2],
        "cut_but_ended.jpg": jpeg[: len(jpeg) // 2] + b"\xff\xd9",
        "zeros.jpg": jpeg[: len(jpeg) // 2] + bytes(len(jpeg) - len(jpeg) // 2 - 2) + b"\xff\xd9",
        "cut.png": png[: len(png) // 2],
        "changed.png": bytes(broken),
        "cut.webp": encode(photo(), "WEBP")[:-40],
        "cut.bmp": encode(photo(), "BMP")[:-40],
        "cut.ppm": encode(photo(), "PPM")[:-40],
        "cut.tif": encode(photo(), "TIFF")[:-400],
        "empty.jpg": b"",
        "text.jpg": b"<html>404 Not Found</html>",
        "start.jpg": b"\xff\xd8\xff",
        "deep.png": encode(deep, "PNG"),
        "deep.tif": encode(deep, "TIFF"),
        "float.tif": encode(Image.fromarray(np.zeros((60, 80), np.float32)), "TIFF"),
        "deep.pgm": encode(deep, "PPM"),
        "huge.jpg": with_size(jpeg, 40000, 40000),
        "nothing.jpg": with_size(jpeg, 0, 60),
        "moving.png": encode(photo(), "GIF"),
    }
    good = {
        "cmyk.jpg": encode(photo().convert("CMYK"), "JPEG"),
        "palette.png": encode(photo().convert("P"), "PNG"),
        "alpha.png": encode(photo().convert("RGBA"), "PNG"),
        "grey.jpg": encode(photo().convert("L"), "JPEG"),
        "a_png.jpg": png,
        **{f"turned_{o}.jpg": turned("JPEG", o) for o in range(1, 9)},
    }
    for name, data in (bad | good).items():
        (root / name).write_bytes(data)
    return sorted(bad), sorted(good)


def test_a_folder_with_one_of_each(tmp_path):
    """Those that cannot be read are all named, none crashes, and the others are read rightly."""
    bad, good = damaged_folder(tmp_path)
    found = problems(tmp_path, [*bad, *good, "missing.jpg"])
    refused = []
    for name in [*bad, "missing.jpg"]:
        with pytest.raises(DataError) as error:
            read_image(tmp_path / name, 3)
        assert str(error.value).startswith(f"{tmp_path / name}: ")
        refused.append(str(error.value))
    # What is wrong within the pixels only decoding finds; the rest both tell of.
    within = {"cut_but_ended.jpg", "zeros.jpg", "changed.png"}
    named = [sentence.split(": ")[0].removeprefix(f"{tmp_path}/") for sentence in found]
    assert named == [name for name in [*bad, "missing.jpg"] if name not in within]
    assert len({sentence.split(": ", 1)[1] for sentence in refused}) > 8
    for name in good:
        with Image.open(tmp_path / name) as image:
            expected = np.array(ImageOps.exif_transpose(image).convert("RGB")).astype(int)
        assert np.abs(read_image(tmp_path / name, 3) - expected).max() <= 1


def test_many_files_keep_their_order(tmp_path):
    (tmp_path / "good.png").write_bytes(WHOLE["PNG"])
    (tmp_path / "bad.png").write_bytes(b"no image")
    names = ["bad.png" if number % 100 == 7 else "good.png" for number in range(1500)]
    names[3] = "missing.png"
    found = problems(tmp_path, names)
    assert len(found) == 16
    assert found[0].startswith(f"{tmp_path}/missing.png: cannot be read (No such file")
    assert all("bad.png: not an image" in sentence for sentence in found[1:])
    assert problems(tmp_path, []) == []


def test_a_folder_is_no_file(tmp_path):
    assert probe(tmp_path) == f"{tmp_path}: cannot be read (Is a directory)."

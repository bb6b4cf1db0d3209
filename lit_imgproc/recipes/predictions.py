"""What a run says of images: put together, told in a line, and written in the usual formats."""

import json
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lit_imgproc import pictures, seams
from lit_imgproc.data.headers import MAX_PIXELS
from lit_imgproc.errors import UserError
from lit_imgproc.models.segmentation.metrics import BACKGROUND
from lit_imgproc.recipes.masks import read_raster_mask

Answer = dict[str, Any]


class Said(NamedTuple):
    """An answer of ``predict_step``.

    Attributes:
        image: The number of the image; parts of one have the same.
        geometry: Where it lies: see :mod:`lit_imgproc.geometry`.
        answer: In pixels of the file.
    """

    image: int
    geometry: dict[str, Any]
    answer: Answer


def whole_images(found: Iterable[Said]) -> Iterator[Answer]:
    """One answer an image, with the ``size`` of the file that boxes and masks are in pixels of.

    What several tiles of a raster say is put together by :func:`lit_imgproc.seams.join`.
    """
    for _, group in groupby(found, key=lambda said: said.image):
        parts = list(group)
        geometry, answer = parts[0].geometry, parts[0].answer
        if "boxes" in answer or "mask" in answer:
            joined = _stitched(parts) if "window" in geometry else answer
            answer = joined | {"size": list(geometry["size"])}
        if "image" in answer and "window" in geometry:
            answer = answer | {"image": _pasted(parts)}
        yield answer


def _stitched(parts: Sequence[Said]) -> Answer:
    """What the tiles of one raster say, put together."""
    count = [len(part.answer["boxes"]) for part in parts]
    boxes = np.array([box for part in parts for box in part.answer["boxes"]], np.float64)
    scores = np.array([score for part in parts for score in part.answer["scores"]], np.float64)
    names = [label for part in parts for label in part.answer["labels"]]
    _, labels = np.unique(np.array(names, np.str_), return_inverse=True)
    lie = [part.geometry["window"] for part in parts]
    windows = np.array([[x, y, x + width, y + height] for y, x, height, width in lie], np.float64)
    tiles = np.repeat(np.arange(len(parts)), count)
    height, width = parts[0].geometry["size"]
    joined = seams.join(boxes.reshape(-1, 4), scores, labels, tiles, windows, (height, width))
    return {
        "id": parts[0].answer["id"],
        "boxes": joined.boxes.tolist(),
        "labels": [names[members[0]] for members in joined.members],
        "scores": joined.scores.tolist(),
    }


def _pasted(parts: Sequence[Said]) -> NDArray[np.uint8]:
    """The pictures that were made of the tiles of one image, put together."""
    windows = [part.geometry["window"] for part in parts]
    height, width = (max(window[k] + window[k + 2] for window in windows) for k in (0, 1))
    whole = np.zeros((height, width, parts[0].answer["image"].shape[2]), np.uint8)
    for part, (row, column, down, across) in zip(parts, windows, strict=True):
        whole[row : row + down, column : column + across] = part.answer["image"]
    return whole


def without_arrays(answer: Answer) -> Answer:
    """What JSON can hold of an answer: without ``mask``, ``instances`` and ``image``."""
    return {key: value for key, value in answer.items() if not isinstance(value, np.ndarray)}


def summary(answer: Answer, threshold: float) -> str:
    """An answer in a few words, such as ``12 RBC, 1 WBC`` or ``building 31 %, road 0.4 %``.

    Of a picture that was made it is the size.

    Args:
        answer: Of one image.
        threshold: The least score of an object that is counted.
    """
    if "boxes" in answer:
        pairs = zip(answer["labels"], answer["scores"], strict=True)
        counts = Counter(label for label, score in pairs if score >= threshold)
        return ", ".join(f"{count} {label}" for label, count in counts.most_common()) or "nothing"
    if "classes" in answer:
        classes = sorted(answer["classes"].items(), key=lambda item: -item[1])
        shown = [f"{name} {_percent(share)} %" for name, share in classes if name != BACKGROUND]
        return ", ".join(shown) or "nothing"
    if "image" in answer:
        height, width = answer["image"].shape[:2]
        return f"a picture of {width}x{height}"
    label = answer["label"]
    return ", ".join(label) if isinstance(label, list) else f"{label} {answer['score']:.3f}"


def _percent(share: float) -> str:
    """Whole percents; below 1 the first digit that is not 0."""
    return f"{100 * share:.0f}" if share >= 0.01 else f"{100 * share:.1g}"


def outputs(files: Sequence[Path], folder: Path, suffix: str, overwrite: bool) -> list[Path]:
    """A file of its own in a folder for each image, laid out as the images are.

    Args:
        files: The images.
        folder: Where to write.
        suffix: Of the new files. Images that differ by their suffixes only keep these.
        overwrite: Whether files may be there already, other than the images.

    Raises:
        UserError: A file is there already.
    """
    paths = [file.absolute() for file in files]
    top = os.path.commonpath([path.parent for path in paths])
    bare = [path.with_name(_bare(path)) for path in paths]
    named = Counter(dict(zip(paths, bare, strict=True)).values())
    result = []
    for path, plain in zip(paths, bare, strict=True):
        inside = (path if named[plain] > 1 else plain).relative_to(top)
        target = folder / inside.with_name(inside.name + suffix)
        if target.exists():
            if any(target.samefile(file) for file in files):
                raise UserError(f"{target} is one of the images: give another folder")
            if not overwrite:
                raise UserError(f"{target} is there already: give another folder, or --overwrite")
        result.append(target)
    return result


def _bare(file: Path) -> str:
    """The name of a file without its suffix; of a folder, which has none, all of it."""
    if file.is_dir():
        return file.name
    return Path(file.stem).stem if file.name.lower().endswith(".nii.gz") else file.stem


def write_coco(
    path: Path,
    answers: Sequence[Answer],
    class_names: Sequence[str],
    annotations: Path | None = None,
) -> None:
    """Write all objects as COCO does, with boxes as x, y, width and height.

    Without annotations the file is a COCO data set of its own, with images, categories (from 1) and
    annotations that have scores: ``pycocotools.coco.COCO(path)``. With them it is COCO's list of
    results, by the ids of that file: ``COCO(annotations).loadRes(path)``.

    Args:
        path: The file.
        answers: Of all images.
        class_names: Of the run.
        annotations: A COCO file that knows the images and the classes by their names.

    Raises:
        UserError: It does not, or is none.
    """
    images = {answer["id"]: number for number, answer in enumerate(answers, start=1)}
    categories = {name: number for number, name in enumerate(class_names, start=1)}
    if annotations is not None:
        images, categories = _ids(annotations, [*images], class_names)
    results = [
        {"image_id": images[answer["id"]], "category_id": categories[label], **found}
        for answer in answers
        for label, found in _objects(answer)
    ]
    if annotations is not None:
        path.write_text(json.dumps(results) + "\n")
        return
    numbered = [
        {"id": number, "iscrowd": 0, "area": one["bbox"][2] * one["bbox"][3], **one}
        for number, one in enumerate(results, start=1)
    ]
    sizes = {answer["id"]: answer["size"] for answer in answers}
    listed = [
        {"id": number, "file_name": name, "height": sizes[name][0], "width": sizes[name][1]}
        for name, number in images.items()
    ]
    named = [{"id": number, "name": name} for name, number in categories.items()]
    whole = {"images": listed, "categories": named, "annotations": numbered}
    path.write_text(json.dumps(whole) + "\n")


def _objects(answer: Answer) -> Iterable[tuple[str, dict[str, Any]]]:
    for number, (left, top, right, bottom) in enumerate(answer["boxes"]):
        found = {"bbox": [left, top, right - left, bottom - top], "score": answer["scores"][number]}
        if "masks" in answer:
            found["segmentation"] = answer["masks"][number]
        yield answer["labels"][number], found


def _ids(
    path: Path, files: Sequence[str], class_names: Sequence[str]
) -> tuple[dict[str, int], dict[str, int]]:
    """The ids that an annotation file has for images, by the ends of their paths, and classes."""
    given = read_coco(path)
    known = {str(image["file_name"]): image["id"] for image in given["images"]}
    images = {file: known[known_name(path, known, file)] for file in files}
    categories = {str(one["name"]): one["id"] for one in given["categories"]}
    if missing := [name for name in class_names if name not in categories]:
        raise UserError(f"{path}: has no category {', '.join(missing)}")
    return images, categories


def read_coco(path: Path) -> dict[str, Any]:
    """A COCO file as it is.

    Raises:
        UserError: It has no images or no categories.
    """
    try:
        given: dict[str, Any] = json.loads(path.read_bytes())
        for key, name in (("images", "file_name"), ("categories", "name")):
            for one in given[key]:
                _ = one["id"], one[name]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: cannot be read as annotations of COCO ({error})") from error
    return given


def known_name(path: Path, known: Collection[str], file: str) -> str:
    """The name that an annotation file ``path`` has for an image: the end of its path.

    Raises:
        UserError: It has none.
    """
    parts = Path(file).absolute().parts
    ends = ["/".join(parts[first:]) for first in range(1, len(parts))]
    name = next((end for end in ends if end in known), None)
    if name is None:
        raise UserError(f"{path}: has no image {ends[-1]}")
    return name


def write_geojson(path: Path, file: Path, answer: Answer) -> None:
    """Write all objects of a raster as polygons in its CRS.

    Args:
        path: The GeoJSON file; its folder is made.
        file: The raster.
        answer: What was found in it.

    Raises:
        UserError: It is no raster, or rasterio is not installed.
    """
    from lit_imgproc.data.satellite.coordinates import write_geojson
    from lit_imgproc.data.satellite.raster import Raster

    path.parent.mkdir(parents=True, exist_ok=True)
    boxes = np.array(answer["boxes"], np.float64).reshape(-1, 4)
    write_geojson(path, Raster(file), boxes, answer["labels"], answer["scores"])


def draw(
    path: Path,
    read: Callable[[Path], NDArray[Any]],
    file: Path,
    answer: Answer,
    class_names: Sequence[str],
    threshold: float,
) -> None:
    """Draw what was found into a copy of an image, at its size.

    Objects get boxes, names, scores and masks. Classes of pixels are laid over the image in their
    colours, and a strip below it says which is which.

    Args:
        path: The PNG file; its folder is made.
        read: Reads an image as the run does: ``[H,W,C]``.
        file: The image.
        answer: What was found in it.
        class_names: Of the run; each has its colour.
        threshold: The least score of an object that is drawn.

    Raises:
        UserError: It is a volume or too large, or the file cannot be written.
    """
    import cv2

    if len(answer["size"]) == 3:
        raise UserError(f"{file}: volumes are not drawn: give --masks instead")
    height, width = answer["size"]
    if height * width > MAX_PIXELS:
        other = "--geojson" if "boxes" in answer else "--masks"
        raise UserError(
            f"{file}: {width:,}x{height:,} pixels are too many to draw: give {other} instead"
        )
    picture = _picture(read(file))
    if "boxes" in answer:
        drawn = _with_objects(picture, answer, class_names, threshold)
    else:
        drawn = _with_classes(picture, answer, class_names)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), drawn[:, :, ::-1]):
        raise UserError(f"{path} cannot be written")


def write_picture(path: Path, answer: Answer) -> None:
    """Write the picture that a run made of an image.

    Args:
        path: The PNG file; its folder is made.
        answer: Of a run that makes pictures.

    Raises:
        UserError: The run makes none, or the file cannot be written.
    """
    import cv2

    if "image" not in answer:
        raise UserError("--pictures is for runs that make pictures of images, as translators do")
    image = answer["image"]
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), image[:, :, ::-1] if image.shape[2] == 3 else image):
        raise UserError(f"{path} cannot be written")


def _with_objects(
    picture: pictures.Picture, answer: Answer, class_names: Sequence[str], threshold: float
) -> pictures.Picture:
    from faster_coco_eval.core import mask as rle

    shown = [row for row, score in enumerate(answer["scores"]) if score >= threshold]
    labels = [answer["labels"][row] for row in shown]
    return pictures.annotate(
        picture,
        np.array([answer["boxes"][row] for row in shown], np.float64).reshape(-1, 4),
        [class_names.index(label) for label in labels],
        [f"{answer['labels'][row]} {answer['scores'][row]:.2f}" for row in shown],
        (rle.decode(answer["masks"][row]) == 1 for row in shown if "masks" in answer),
    )


def _with_classes(
    picture: pictures.Picture, answer: Answer, class_names: Sequence[str]
) -> pictures.Picture:
    mask = answer["mask"] if "mask" in answer else read_raster_mask(Path(answer["mask_file"]))
    clear = 0 if class_names[0] == BACKGROUND else None
    found = [k for k, name in enumerate(class_names) if name in answer["classes"] and k != clear]
    painted = pictures.paint(picture, mask, clear=clear)
    return pictures.legend(painted, [class_names[k] for k in found], found)


def _picture(pixels: NDArray[Any]) -> pictures.Picture:
    """An image ``[H,W,C]`` of any kind as RGB."""
    if pixels.dtype == np.uint8 and pixels.shape[2] in (1, 3):
        return np.repeat(pixels, 3 // pixels.shape[2], axis=2)
    unit = np.float32(255 if pixels.dtype == np.uint8 else 1)
    return pictures.rgb(pixels.transpose(2, 0, 1).astype(np.float32) / unit)

"""Small drawn data sets in the real on-disk formats, always the same bytes' worth of pixels."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from faster_coco_eval.core import mask as api
from numpy.typing import NDArray
from PIL import Image

CLASSES = ("disc", "square")
SIDES = ("xmin", "ymin", "xmax", "ymax")
COUNTS = {"train": 16, "val": 6, "test": 6}
SIZES = ((64, 96), (96, 64), (72, 72))
"""Height and width, in turns."""


class Drawn(NamedTuple):
    """One object: its class, its polygon ``[P,2]`` and the pixels that are seen of it."""

    label: int
    polygon: NDArray[np.float64]
    seen: NDArray[np.bool_]

    @property
    def box(self) -> list[int]:
        """xyxy, edges of the polygon, which lies within the image."""
        return [
            *self.polygon.min(0).astype(int).tolist(),
            *self.polygon.max(0).astype(int).tolist(),
        ]


class Scene(NamedTuple):
    """One image and the objects in it."""

    name: str
    image: NDArray[np.uint8]
    objects: list[Drawn]


def write_coco(root: Path) -> None:
    """As COCO 2017: images, instances with polygons and a crowd, captions; one image is empty."""
    for split in ("train", "val"):
        _write_coco_split(root, split)


def write_voc(root: Path) -> None:
    """As VOC2012: XML, label images with a palette, and lists; one image is empty."""
    for folder in ("SegmentationClass", "SegmentationObject"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for split in ("train", "val"):
        scenes = list(_scenes(split, "jpg"))
        for sets in ("Main", "Segmentation"):
            path = root / "ImageSets" / sets / f"{split}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(f"{Path(scene.name).stem}\n" for scene in scenes))
        for scene in scenes:
            _write_image(root / "JPEGImages" / scene.name, scene)
            stem = Path(scene.name).stem
            xml = root / "Annotations" / f"{stem}.xml"
            xml.parent.mkdir(parents=True, exist_ok=True)
            xml.write_text(_voc_xml(scene))
            by_class, by_object = np.zeros((2, *scene.image.shape[:2]), np.uint8)
            for number, drawn in enumerate(scene.objects, start=1):
                edge = _edge(drawn)
                by_class[drawn.seen], by_object[drawn.seen] = drawn.label + 1, number
                by_class[edge] = by_object[edge] = 255
            _write_palette(root / "SegmentationClass" / f"{stem}.png", by_class)
            _write_palette(root / "SegmentationObject" / f"{stem}.png", by_object)


def write_yolo(root: Path) -> None:
    """``images`` and ``labels`` with ``train``, ``val`` and ``test``; one image has no labels."""
    for split in COUNTS:
        for scene in _scenes(split, "png"):
            _write_image(root / "images" / split / scene.name, scene)
            height, width = scene.image.shape[:2]
            path = root / "labels" / split / f"{Path(scene.name).stem}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            lines = [
                f"{drawn.label} "
                + " ".join(f"{value:.8f}" for value in (drawn.polygon / [width, height]).ravel())
                for drawn in scene.objects
            ]
            if lines:
                path.write_text("\n".join(lines) + "\n")
    places = "".join(f"{split}: images/{split}\n" for split in COUNTS)
    names = "".join(f"  {number}: {name}\n" for number, name in enumerate(CLASSES))
    (root / "data.yaml").write_text(f"path: .\n{places}names:\n{names}")


def write_table(root: Path) -> None:
    """A CSV file a split beside the images."""
    for split in COUNTS:
        root.mkdir(parents=True, exist_ok=True)
        with (root / f"{split}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["image_path", *SIDES, "label"])
            for scene in _scenes(split, "png"):
                _write_image(root / scene.name, scene)
                rows = [[scene.name, *one.box, CLASSES[one.label]] for one in scene.objects]
                writer.writerows(rows or [[scene.name, "", "", "", "", ""]])


def write_labels(root: Path) -> None:
    """``images`` and ``labels``, numbers of objects as uint16 PNG, with ``index.csv``."""
    (root / "labels").mkdir(parents=True, exist_ok=True)
    with (root / "index.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "split"])
        for split in COUNTS:
            for scene in _scenes(split, "png"):
                _write_image(root / "images" / scene.name, scene)
                labels = np.zeros(scene.image.shape[:2], np.uint16)
                for number, drawn in enumerate(scene.objects):
                    labels[drawn.seen] = 300 + 2 * number  # more than 8 bits, and with gaps
                cv2.imwrite(str(root / "labels" / scene.name), labels)
                writer.writerow([Path(scene.name).stem, split])


def write_masks(root: Path) -> None:
    """``images`` and ``masks``, each with ``train``, ``val`` and ``test``; edges are 255."""
    for split in COUNTS:
        (root / "masks" / split).mkdir(parents=True, exist_ok=True)
        for scene in _scenes(split, "jpg"):
            _write_image(root / "images" / split / scene.name, scene)
            mask = np.zeros(scene.image.shape[:2], np.uint8)
            for drawn in scene.objects:
                mask[drawn.seen] = drawn.label + 1
                mask[_edge(drawn)] = 255
            name = Path(scene.name).with_suffix(".png")
            cv2.imwrite(str(root / "masks" / split / name), mask)


def _edge(drawn: Drawn) -> NDArray[np.bool_]:
    """The outermost pixels that are seen of an object."""
    inside = cv2.erode(drawn.seen.astype(np.uint8), np.ones((3, 3)))
    return np.asarray(drawn.seen & (inside == 0))


def _write_coco_split(root: Path, split: str) -> None:
    images: list[Any] = []
    annotations: list[Any] = []
    captions: list[Any] = []
    for number, scene in enumerate(_scenes(split, "jpg"), start=1):
        _write_image(root / f"{split}2017" / scene.name, scene)
        height, width = scene.image.shape[:2]
        image = {"id": number, "file_name": scene.name, "height": height, "width": width}
        images.append(image)
        for drawn in scene.objects:
            annotations.append(_coco_object(drawn, len(annotations) + 1, number))
        if number == 1:  # the lower edge of the first image is a crowd
            crowd = np.zeros((height, width), np.uint8)
            crowd[-6:] = 1
            counts = [height - 6, *[6, height - 6] * (width - 1), 6]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": 18,
                    "bbox": [0, height - 6, width, 6],
                    "area": 6 * width,
                    "iscrowd": 1,
                    "segmentation": {"size": [height, width], "counts": counts},
                }
            )
        names = sorted(CLASSES[drawn.label] for drawn in scene.objects)
        text = f"A picture of {' and '.join(f'a {name}' for name in names) or 'nothing'}."
        captions += [
            {"id": 2 * number + more, "image_id": number, "caption": text} for more in (0, 1)
        ]
    categories = [{"id": 18 if k else 3, "name": name} for k, name in enumerate(CLASSES)]
    folder = root / "annotations"
    folder.mkdir(parents=True, exist_ok=True)
    told = {"images": images, "annotations": annotations, "categories": categories}
    (folder / f"instances_{split}2017.json").write_text(json.dumps(told))
    told = {"images": images, "annotations": captions}
    (folder / f"captions_{split}2017.json").write_text(json.dumps(told))


def _coco_object(drawn: Drawn, number: int, image: int) -> dict[str, Any]:
    """Every second one as compressed run lengths."""
    left, top, right, bottom = drawn.box
    segmentation: Any = [drawn.polygon.ravel().tolist()]
    if number % 2 == 0:
        height, width = drawn.seen.shape
        code = api.merge(api.frPyObjects(segmentation, height, width))
        segmentation = {"size": [height, width], "counts": code["counts"].decode()}
    return {
        "id": number,
        "image_id": image,
        "category_id": 18 if drawn.label else 3,
        "bbox": [left, top, right - left, bottom - top],
        "area": float(cv2.contourArea(drawn.polygon.astype(np.float32))),
        "iscrowd": 0,
        "segmentation": segmentation,
    }


def _scenes(split: str, suffix: str) -> Iterator[Scene]:
    """Zero to two objects each, apart from one another; the fourth image of a split is empty."""
    random = np.random.default_rng(list(COUNTS).index(split))
    for number in range(COUNTS[split]):
        height, width = SIZES[number % len(SIZES)]
        image = random.integers(0, 60, (height, width, 3), np.uint8)
        objects = []
        for place in range(0 if number == 3 else int(random.integers(1, 3))):
            radius = int(random.integers(8, 14))
            # Each in a half of its own of the longer side.
            middle = np.array([width, height]) / 2
            along = int(width < height)
            middle[along] *= 0.55 + 0.9 * place
            centre = np.floor(middle + random.integers(-1, 2, size=2))
            label = int(random.integers(2))
            polygon = centre + radius * _outline(label)
            seen = np.zeros((height, width), np.uint8)
            cv2.fillPoly(seen, [polygon.round().astype(np.int32)], 1)
            image[seen == 1] = random.integers(140, 256, size=3)
            objects.append(Drawn(label, polygon, seen == 1))
        yield Scene(f"{split}_{number:03}.{suffix}", image, objects)


def _outline(label: int) -> NDArray[np.float64]:
    """The corners of a shape of radius 1."""
    if label == 1:
        return np.array([[-1.0, -1], [1, -1], [1, 1], [-1, 1]])
    angles = np.arange(16) * np.pi / 8
    return np.stack([np.cos(angles), np.sin(angles)], 1).round(2)


def _write_image(path: Path, scene: Scene) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), scene.image[:, :, ::-1])


def _write_palette(path: Path, numbers: NDArray[np.uint8]) -> None:
    image = Image.fromarray(numbers, "P")
    image.putpalette(np.random.default_rng(0).integers(0, 256, 768, np.uint8).tobytes())
    image.save(path)


def _voc_xml(scene: Scene) -> str:
    height, width = scene.image.shape[:2]
    objects = "".join(
        f"<object><name>{CLASSES[one.label]}</name><difficult>{int(number == 1)}</difficult>"
        + "<bndbox>"
        + "".join(f"<{side}>{at}</{side}>" for side, at in zip(SIDES, one.box, strict=True))
        + "</bndbox></object>"
        for number, one in enumerate(scene.objects)
    )
    return (
        f"<annotation><filename>{scene.name}</filename><size><width>{width}</width>"
        f"<height>{height}</height><depth>3</depth></size>{objects}</annotation>\n"
    )

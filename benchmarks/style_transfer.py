"""The same photographs and the same style through Gatys, Johnson and AdaIN.

Three photographs of Kodak's, which nothing was trained on, are redrawn in the style that the run of
`style_transfer` was trained for: by optimisation, by that run, and by a run of `adain`. What came
out is compared with photograph and style by the same features for all, those of VGG-16 as HED
fine-tuned it, with average pools: the content by `relu4_2` and the style by the Gram matrices of
`relu1_1` to `relu5_1`. It is what Gatys optimises, so that Gatys is bound to be best by it; the
photograph itself, and the style's picture in its place, say how far there is to go.

    python benchmarks/style_transfer.py --johnson RUN --adain RUN
    python benchmarks/style_transfer.py --johnson RUN --adain RUN --grid grid.jpg --json
"""

import argparse
import json
import os
import time
from pathlib import Path

import cv2
import numpy as np
import torch

from lit_imgproc import load_run
from lit_imgproc.data.decode import read_image
from lit_imgproc.models.style_transfer.base import as_bytes, from_bytes
from lit_imgproc.models.style_transfer.gatys import CONTENT_LAYERS, STYLE_LAYERS
from lit_imgproc.models.style_transfer.losses import content_loss, gram, style_loss
from lit_imgproc.models.vgg import VGGFeatures
from lit_imgproc.recipes.references import from_environment
from lit_imgproc.recipes.stylization import Settings, scaled, stylize

PHOTOGRAPHS = ("kodim07", "kodim15", "kodim19")
GRID_SIDE, QUALITY, GAP = 224, 85, 6


class Judge:
    """Tells how far a picture is from a photograph and from a style."""

    def __init__(self, style):
        self.features = VGGFeatures("vgg16_hed", [*CONTENT_LAYERS, *STYLE_LAYERS], "average")
        seen = self.features(style[None])
        self.grams = {name: gram(seen[name])[0] for name in STYLE_LAYERS}

    def __call__(self, made, content):
        seen, kept = self.features(made[None]), self.features(content[None])
        target = {name: kept[name] for name in CONTENT_LAYERS}
        return {
            "content_loss": float(content_loss(seen, target)),
            "style_loss": float(style_loss(seen, self.grams, STYLE_LAYERS)),
        }


def grid(photographs, style, rows):
    """Photographs in the first column, what was made of each beside it, and the style on top."""

    def tile(image):
        height, width = image.shape[1:]
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        square = image[:, top : top + side, left : left + side]
        return as_bytes(scaled(square, GRID_SIDE)[None])[0]

    lines = [[photograph, *made] for photograph, made in zip(photographs, rows, strict=True)]
    blank = torch.ones(3, GRID_SIDE, GRID_SIDE)
    lines.insert(0, [style, *[blank] * (len(lines[0]) - 1)])
    height, width = (len(n) * (GRID_SIDE + GAP) - GAP for n in (lines, lines[0]))
    sheet = np.full((height, width, 3), 255, np.uint8)
    names = ["", "Gatys", "Johnson", "AdaIN"]
    for row, line in enumerate(lines):
        for column, image in enumerate(line):
            y, x = row * (GRID_SIDE + GAP), column * (GRID_SIDE + GAP)
            sheet[y : y + GRID_SIDE, x : x + GRID_SIDE] = tile(image)
            if row == 0 and column:
                place = (x + 10, y + GRID_SIDE - 14)
                cv2.putText(sheet, names[column], place, cv2.FONT_HERSHEY_SIMPLEX, 1.2,
                            (40, 40, 40), 2, cv2.LINE_AA)  # fmt: skip
    return sheet


def main():
    """Print a table, and write the pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--johnson", required=True, help="a run of style_transfer")
    parser.add_argument("--adain", required=True, help="a run of adain")
    parser.add_argument("--style", type=Path, help="else that of the run of style_transfer")
    parser.add_argument("--steps", type=int, default=150, help="of Gatys, at each resolution")
    parser.add_argument("--size", type=int, default=500, help="the longer side in pixels")
    parser.add_argument("--grid", type=Path, help="write the pictures to this file")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()

    data = Path(os.environ.get("LIT_IMGPROC_DATA", "data"))
    johnson, adain = load_run(options.johnson), load_run(options.adain)
    picture = options.style or from_environment(johnson.recipe["model"])["style"]
    style = from_bytes(read_image(picture, 3))
    side = johnson.recipe["model"].get("style_size", 256)  # Johnson's strokes were learned so
    style = scaled(style, round(side * max(style.shape[1:]) / min(style.shape[1:])))
    settings = Settings(steps=options.steps, size=options.size)
    ways = {"Gatys": (None, [style]), "Johnson": (johnson, []), "AdaIN": (adain, [style])}
    judge, rows, figures = Judge(style), [], []
    photographs = [
        scaled(from_bytes(read_image(data / "kodak24" / f"{name}.png", 3)), options.size)
        for name in PHOTOGRAPHS
    ]
    _ = johnson.module, adain.module  # is loaded before a clock runs
    with torch.no_grad():
        for name, photograph in zip(PHOTOGRAPHS, photographs, strict=True):
            figures.append({"photograph": name, "by": "itself", **judge(photograph, photograph)})
            made = []
            for way, (run, styles) in ways.items():
                start = time.perf_counter()
                with torch.enable_grad():
                    result, _ = stylize(photograph, styles, run, settings)
                seconds = time.perf_counter() - start
                made.append(result)
                figures.append({"photograph": name, "by": way, **judge(result, photograph),
                                "seconds": round(seconds, 2)})  # fmt: skip
            rows.append(made)
            for one in figures[-4:]:
                print(f"{name}  {one['by']:8} content {one['content_loss']:7.3f}  "
                      f"style {one['style_loss']:7.3f}  {one.get('seconds', 0):7.2f} s",
                      flush=True)  # fmt: skip
    for way in ("itself", *ways):
        own = [one for one in figures if one["by"] == way]
        mean = {k: sum(one.get(k, 0) for one in own) / len(own)
                for k in ("content_loss", "style_loss", "seconds")}  # fmt: skip
        print(f"mean     {way:8} content {mean['content_loss']:7.3f}  "
              f"style {mean['style_loss']:7.3f}  {mean['seconds']:7.2f} s")  # fmt: skip
    if options.grid:
        sheet = cv2.cvtColor(grid(photographs, style, rows), cv2.COLOR_RGB2BGR)
        cv2.imwrite(str(options.grid), sheet, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    if options.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()

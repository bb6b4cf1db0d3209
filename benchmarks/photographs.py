"""Lay out a small folder of photographs and pictures of styles, from packages that are at hand.

Photographs of high resolution lie in Debian's `mate-backgrounds` and `plasma-workspace-wallpapers`
(GPL-2+, each by the author that the package's copyright file names), and a few in scikit-learn
(CC BY 2.0) and in scikit-image, whose documentation of `skimage.data` says where each is from.
Paintings and textures of the same packages are the styles. Neither package has to be installed:

    apt-get download mate-backgrounds plasma-workspace-wallpapers
    for package in *.deb; do dpkg -x $package debian; done
    python benchmarks/photographs.py data/photographs --debian debian

Photographs are scaled to a shorter side of 768 pixels and cut into squares of 384, so that training
does not decode 15 megapixels for a crop; those of validation are of other photographs.
`image_folder` reads `train` and `val`, whose classes are the packages; `unpaired_images` takes the
source `{split}/**/*` and the target `styles/*`.
"""

import argparse
from importlib.util import find_spec
from pathlib import Path

import cv2

SHORTER, SQUARE, STYLE = 768, 384, 512
QUALITY = [cv2.IMWRITE_JPEG_QUALITY, 92]
MATE, PLASMA = "usr/share/backgrounds/mate", "usr/share/wallpapers"
HELD_OUT = {"Blinds", "FreshFlower", "FallenLeaf", "Path", "chelsea"}
"""Photographs of validation."""

PHOTOGRAPHS = {
    "mate": [
        f"{MATE}/nature/{name}.jpg"
        for name in (
            "Aqua", "Blinds", "Dune", "FreshFlower", "Garden", "GreenMeadow", "LadyBird",
            "RainDrops", "Storm", "TwoWings", "Wood", "YellowFlower",
        )
    ],
    "plasma": [
        f"{PLASMA}/{name}"
        for name in (
            "BytheWater", "ColdRipple", "ColorfulCups", "DarkestHour", "EveningGlow", "FallenLeaf",
            "Grey", "Kite", "OneStandsOut", "Path", "summer_1am",
        )
    ],
    "samples": [
        "skimage/data/astronaut.png", "skimage/data/chelsea.png", "skimage/data/coffee.png",
        "skimage/data/motorcycle_left.png", "skimage/data/rocket.jpg",
        "sklearn/datasets/images/china.jpg", "sklearn/datasets/images/flower.jpg",
    ],
}  # fmt: skip
STYLES = [
    f"{MATE}/abstract/Elephants.jpg",
    *(
        f"{PLASMA}/{name}"
        for name in (
            "Altai", "Autumn", "Canopee", "Cascade", "Cluster", "Honeywave", "IceCold", "Kay",
            "Kokkini", "MilkyWay", "Opal", "PastelHills", "Patak", "SafeLanding", "Shell", "Volna",
        )
    ),
    *(
        f"skimage/data/{name}"
        for name in ("brick.png", "grass.png", "gravel.png", "hubble_deep_field.jpg", "ihc.png",
                     "retina.jpg")
    ),
]  # fmt: skip


def source(name, debian):
    """The file of a picture: of a wallpaper of Plasma, the largest that is not upright."""
    package = name.split("/")[0]
    if package in ("skimage", "sklearn"):
        return Path(find_spec(package).submodule_search_locations[0]).parent / name
    path = debian / name
    if path.is_dir():
        files = sorted((path / "contents/images").iterdir(), key=_pixels)
        return files[-1]
    return path


def _pixels(path):
    width, height = map(int, path.stem.split("x"))
    return width * height if width > height else 0


def read(path, shorter):
    """Pixels whose shorter side has so many, or as many as there are."""
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise SystemExit(f"{path} is not there: see the head of {__file__}")
    scale = shorter / min(image.shape[:2])
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return cv2.resize(image, None, fx=scale, fy=scale, interpolation=how)


def main():
    """Write the folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--debian", type=Path, default=Path("/"), help="where usr/share lies")
    options = parser.parse_args()
    for package, names in PHOTOGRAPHS.items():
        for name in names:
            path = source(name, options.debian)
            title = Path(name).stem
            folder = options.folder / ("val" if title in HELD_OUT else "train") / package
            folder.mkdir(parents=True, exist_ok=True)
            image = read(path, SHORTER)
            for row in range(image.shape[0] // SQUARE):
                for column in range(image.shape[1] // SQUARE):
                    y, x = row * SQUARE, column * SQUARE
                    square = image[y : y + SQUARE, x : x + SQUARE]
                    cv2.imwrite(str(folder / f"{title}_{row}{column}.jpg"), square, QUALITY)
    (options.folder / "styles").mkdir(parents=True, exist_ok=True)
    for name in STYLES:
        picture = read(source(name, options.debian), STYLE)
        target = options.folder / "styles" / f"{Path(name).stem}.jpg"
        cv2.imwrite(str(target), picture, QUALITY)
    for part in ("train", "val", "styles"):
        count = sum(path.is_file() for path in (options.folder / part).rglob("*"))
        print(f"{part}: {count} pictures")


if __name__ == "__main__":
    main()

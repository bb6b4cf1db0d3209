"""EuroSAT, in the layouts that it is published in."""

from pathlib import Path
from typing import Literal

from lit_imgproc.data.base import BatchSize, DataError, NumWorkers
from lit_imgproc.data.imagenet.folder import Listing
from lit_imgproc.data.readable import OnError
from lit_imgproc.data.satellite import toy
from lit_imgproc.data.satellite.bands import Band, Index
from lit_imgproc.data.satellite.scenes import Fraction, SceneFolder, Side
from lit_imgproc.data.transforms import AugmentChoice
from lit_imgproc.inputs import Interpolation

CLASSES = (
    "AnnualCrop",
    "Forest",
    "HerbaceousVegetation",
    "Highway",
    "Industrial",
    "Pasture",
    "PermanentCrop",
    "Residential",
    "River",
    "SeaLake",
)
LISTS: dict[Literal["train", "val", "test"], str] = {
    "train": "eurosat-train.txt",
    "val": "eurosat-val.txt",
    "test": "eurosat-test.txt",
}
PAGE = "https://zenodo.org/records/7711810"


class EuroSAT(SceneFolder):
    """EuroSAT: 27,000 scenes of Sentinel-2, 64x64, 10 classes of land use and cover.

    arXiv:1709.00029. The files lie as they are published somewhere in ``root``, a class a folder:
    ``AnnualCrop/AnnualCrop_1.tif`` with 13 bands of 16 bits (``EuroSAT_MS.zip``), or
    ``AnnualCrop_1.jpg``, which is RGB (``EuroSAT_RGB.zip``). Where ``root`` holds the lists
    ``eurosat-train.txt``, ``eurosat-val.txt`` and ``eurosat-test.txt`` (arXiv:1911.06721) they are
    the splits; otherwise the same share of every class is held out.

    Example:
        >>> data = EuroSAT(root="data/eurosat", augment={"train": "dihedral"})
        >>> data.facts()["in_channels"]
        13

    Args:
        root: The folder that the archive was unpacked in.
        image_size: Side that images are scaled to, in pixels; ``None`` leaves them as they are.
        interpolation: How images are scaled.
        bands: Names, ``B01`` to ``B12`` and ``B8A``, or numbers in the files; ``None`` takes all.
        indices: Spectral indices as further bands; see :mod:`lit_imgproc.data.satellite.bands`.
        val_fraction: Share of the images to hold out for validation where there are no lists.
        test_fraction: Share of the images to hold out for testing where there are no lists.
        augment: What training does, for example ``{"train": "dihedral"}``.
        batch_size: Images in a batch of one process.
        num_workers: Processes that load images; ``None`` goes by the CPUs of this rank.
        on_error: What happens to images that cannot be read: ``stop``, or ``skip`` them.
        seed: Seed of the order of the images and of their augmentations.

    Raises:
        DataError: When it is prepared and files are missing or damaged.
    """

    def __init__(
        self,
        *,
        root: str = "data/eurosat",
        image_size: Side | None = None,
        interpolation: Interpolation = "bilinear",
        bands: list[Band] | None = None,
        indices: list[Index] | None = None,
        val_fraction: Fraction = 0.1,
        test_fraction: Fraction = 0.2,
        augment: AugmentChoice = None,
        batch_size: BatchSize = 32,
        num_workers: NumWorkers = None,
        on_error: OnError = "stop",
        seed: int = 0,
    ) -> None:
        super().__init__(
            root=root,
            image_size=image_size,
            interpolation=interpolation,
            bands=bands,
            band_names=list(toy.SENTINEL_BANDS),
            indices=indices,
            val_fraction=val_fraction,
            test_fraction=test_fraction,
            augment=augment,
            batch_size=batch_size,
            num_workers=num_workers,
            on_error=on_error,
            seed=seed,
        )

    def _list(self) -> Listing:
        if all((self.root / name).is_file() for name in LISTS.values()):
            self.split_lists = LISTS
        return super()._list()

    def _folder(self) -> Path:
        folders = sorted(
            first.parent
            for first in self.root.rglob(CLASSES[0])
            if all((first.parent / name).is_dir() for name in CLASSES)
        )
        if not folders:
            raise DataError(
                f"{self.root}: EuroSAT is not there; download EuroSAT_MS.zip (13 bands) or "
                f"EuroSAT_RGB.zip from {PAGE} and unpack it there."
            )
        if len(folders) > 1:
            have = " and ".join(str(folder) for folder in folders)
            raise DataError(f"{self.root}: EuroSAT is there twice; name one (data.root): {have}.")
        return folders[0]

    @classmethod
    def write_toy(cls, root: Path) -> None:
        """Ten images of 13 bands a class, in the published layout."""
        toy.write_eurosat(root, CLASSES)

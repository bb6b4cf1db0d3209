"""A finished run as a value: its module, its data, its record."""

import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
import yaml
from mlflow.entities import Run as Record

from lit_imgproc import checkpoints
from lit_imgproc.data.base import ImageDataModule
from lit_imgproc.errors import UserError
from lit_imgproc.explain.explanation import Report
from lit_imgproc.explain.report import Progress
from lit_imgproc.inputs import InputSpec
from lit_imgproc.models.base import ImageModule
from lit_imgproc.models.gan.module import GAN
from lit_imgproc.models.targets import Box
from lit_imgproc.recipes import generation
from lit_imgproc.recipes.build import build, untrained
from lit_imgproc.recipes.explanations import explain_run, write
from lit_imgproc.recipes.predictor import Images, Predictor
from lit_imgproc.recipes.quiet import quiet
from lit_imgproc.tracking.records import (
    RunNotFound,
    add_metrics,
    artifact_file,
    checkpoint_folder,
    find_run,
)

DEFAULT_STORE = "sqlite:///mlruns/mlflow.db"


def load_run(run_id: str, *, uri: str | None = None) -> "Run":
    """Find a run by its id or by the first characters of it.

    Args:
        run_id: as ``train`` and ``runs`` print it.
        uri: the store; ``MLFLOW_TRACKING_URI`` or the local ``mlruns/mlflow.db`` unless given.

    Raises:
        RunNotFound: no run has such an id, or several do.
        StoreUnavailable: the store does not answer.
    """
    uri = uri or default_store()
    return Run(find_run(run_id, uri), uri)


def default_store() -> str:
    """Where runs are recorded unless a recipe says otherwise."""
    return os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_STORE


def rebuild(recipe: dict[str, Any], checkpoint: Path) -> ImageModule:
    """The module of a frozen recipe in the state of a checkpoint, in eval mode, on the CPU."""
    module = cast(ImageModule, build(untrained(recipe["model"]), "module"))
    module.load_state_dict(checkpoints.read(checkpoint)["state_dict"])
    return module.eval()


class Run:
    """What an experiment left in MLflow.

    Example:
        >>> run = load_run("ab12")  # doctest: +SKIP
        >>> run.predict("photos/")[0]["label"]  # doctest: +SKIP
        'sneaker'
    """

    def __init__(self, record: Record, uri: str) -> None:
        self.record = record
        """The MLflow run: ``record.info``, ``record.data``."""
        self.uri = uri

    def __repr__(self) -> str:
        headline = [f"{k} {v:.4g}" for k, v in self.metrics.items() if k == "test/accuracy"]
        return f"Run({', '.join([repr(self.id), self.status, *headline])})"

    @property
    def id(self) -> str:
        """The run id in MLflow."""
        return str(self.record.info.run_id)

    @property
    def status(self) -> str:
        """``RUNNING``, ``FINISHED``, ``FAILED`` or ``KILLED``."""
        return str(self.record.info.status)

    @property
    def metrics(self) -> dict[str, float]:
        """The last value of each metric."""
        return dict(sorted(self.record.data.metrics.items()))

    @cached_property
    def recipe(self) -> dict[str, Any]:
        """The frozen recipe; references to the environment are kept as references."""
        text = artifact_file(self.record, "recipe.yaml", self.uri).read_text()
        return cast("dict[str, Any]", yaml.safe_load(text))

    @cached_property
    def checkpoint(self) -> Path:
        """The best checkpoint, or the last where none was best."""
        for name in ("best", "last"):
            try:
                return artifact_file(self.record, f"checkpoints/{name}.ckpt", self.uri)
            except RunNotFound:
                continue
        raise RunNotFound(f"run {self.id} ({self.status}) has left no checkpoint")

    def last_checkpoint(self) -> Path | None:
        """The last checkpoint that is whole, None where the run ended before its first one.

        Damaged ones are named and passed over.

        Raises:
            CheckpointError: none is whole.
        """
        folder = checkpoint_folder(self.record)
        if not folder.is_dir():
            try:
                folder = artifact_file(self.record, "checkpoints", self.uri)
            except RunNotFound:
                return None
        paths = checkpoints.last(folder)
        return checkpoints.newest_whole(paths) if paths else None

    def resume(self, *overrides: str) -> "Run":
        """Go on with the training from its last whole checkpoint, to its end.

        Args:
            overrides: ``key=value``, of what may change, such as ``trainer.devices=2``.
        """
        from lit_imgproc.recipes.experiment import resume_run

        return resume_run(self.id, *overrides, uri=self.uri).train()

    @cached_property
    def module(self) -> ImageModule:
        """The trained module in eval mode, on the CPU."""
        return rebuild(self.recipe, self.checkpoint)

    @cached_property
    def input_spec(self) -> InputSpec:
        """What is done to an image before the network sees it."""
        text = artifact_file(self.record, "input.json", self.uri).read_text()
        return InputSpec.from_dict(yaml.safe_load(text))

    @cached_property
    def datamodule(self) -> ImageDataModule:
        """The data of the run, read again."""
        datamodule = cast(ImageDataModule, build(self.recipe["data"], "datamodule"))
        datamodule.prepare()
        return datamodule

    @cached_property
    def reader(self) -> ImageDataModule:
        """A datamodule that opens files as those of the run were, wherever its own data are."""
        block = dict(self.recipe["data"])
        if "root" in block:
            block["root"] = ""  # it may name the environment of another machine
        return cast(ImageDataModule, build(block, "datamodule"))

    def predictor(self, batch_size: int | None = None) -> Predictor:
        """What asks the module, on a GPU where there is one.

        Args:
            batch_size: how many images the network sees at once; None takes as many as training.

        Raises:
            UserError: the run is a GAN's.
        """
        if isinstance(self.module, GAN):
            raise UserError(
                f"run {self.id[:8]} makes images of seeds and says nothing of any: see "
                "`lit-imgproc generate`"
            )
        module = self.module.to("cuda" if torch.cuda.is_available() else "cpu")
        size = batch_size or self.reader.batch_size
        return Predictor(module, self.reader, self.input_spec, size)

    def predict(self, images: Images, *, batch_size: int | None = None) -> list[dict[str, Any]]:
        """Predict images of any size, prepared as they were for evaluation.

        Args:
            images: a file, a folder (searched with its subfolders), an array ``[H, W]``,
                ``[H, W, C]`` or ``[N, H, W, C]`` of the sample type that the run was trained on,
                or several of those. Files are read as those of its data set. For a network of three
                dimensions an array is a volume, ``[D, H, W]`` or ``[D, H, W, C]``, whose axes and
                spacing are those that the run was trained on.
            batch_size: how many images the network sees at once; None takes as many as training.

        Returns:
            One plain dict an image, in order; ``id`` is the file's name or the array's number.
            Boxes and masks are in pixels of the file, whose height and width are ``size``, or in
            voxels of the file of a volume. A raster of tiles is read and looked at tile by tile,
            and answered as a whole; its mask is 255 where it has no data.
        """
        return list(self.predictor(batch_size).stream(images))

    def explain(
        self,
        images: Images | None = None,
        *,
        methods: Sequence[str] | None = None,
        target: str | int | None = None,
        box: Box | None = None,
        annotations: Path | None = None,
        count: int = 8,
        measure: bool = False,
        seed: int = 0,
        progress: Progress = lambda values, what, total: values,
    ) -> Report:
        """Explain what the best state of the run answers of images.

        Example:
            >>> run = load_run("ab12")  # doctest: +SKIP
            >>> run.explain("shoe.png", methods=["grad_cam"]).explanations[0].maps["grad_cam"].shape
            (28, 28)

        Args:
            images: as :meth:`predict` takes them; None takes validation images, some of each class.
            methods: keys of :data:`lit_imgproc.explain.methods.METHODS`; None takes a few that suit
                the network.
            target: the class to explain, by name or number; None takes the answer to each image.
            box: where to explain it, xyxy in pixels of the file: an object, or the region of a
                class; None takes where the network finds it. Not for classifiers.
            annotations: a COCO file with boxes of the images, for the pointing game.
            count: how many validation images.
            measure: whether to measure how faithful the maps are, which takes a multiple of the
                time.
            seed: of what is drawn at random.
            progress: passes images and methods on while it shows how far it is.

        Returns:
            What is said of each image, with its maps as arrays, and of each method.

        Raises:
            UserError: there is nothing to explain, or no such method, class or file.
        """
        return explain_run(
            self,
            images,
            methods=methods,
            target=target,
            box=box,
            annotations=annotations,
            count=count,
            measure=measure,
            seed=seed,
            progress=progress,
        )

    def write_explanations(
        self,
        report: Report,
        folder: str | Path,
        *,
        features: bool = False,
        overwrite: bool = False,
    ) -> Path:
        """Write a page, a picture an image and the numbers, and add them to the run's record.

        In MLflow they are the artifacts ``explanations/TIME``, and the numbers metrics
        ``explain/METHOD.NUMBER`` at the step of the checkpoint.

        Args:
            report: of :meth:`explain`.
            folder: where to write ``index.html``, ``NAME.png`` and ``numbers.json``.
            features: whether to add what the network has learned: its filters, feature maps, dead
                filters, what excites it most, and how the validation images lie to each other.
            overwrite: whether there may be a page already.

        Returns:
            The page, which needs no other file.

        Raises:
            UserError: there is a page, and it is not to be replaced.
        """
        return write(self, report, Path(folder), features=features, overwrite=overwrite)

    def write_masks(
        self, images: Sequence[str | Path], folder: str | Path, *, overwrite: bool = False
    ) -> list[Path]:
        """Segment files one after another, and write the mask of each as soon as it is known.

        Images become PNG images of class numbers at their size, whose palette has the colours of
        the classes; of a run that tells objects apart, ``NAME.instances.png`` beside has the
        numbers of the objects in 16 bits. Rasters become GeoTIFFs of their CRS and transform, with
        255 where they have no data, and never lie in memory as a whole. Volumes become NIfTI files
        of their own voxels.

        Args:
            images: files, and folders to search; one that holds a DICOM series is a volume.
            folder: where to write; laid out as the images are.
            overwrite: whether files may be there already, other than the images.

        Returns:
            The file of each image.

        Raises:
            UserError: the run does not segment, or a file is there already.
        """
        predictor = self.predictor()
        files = predictor.files(images)
        paths = predictor.mask_paths(files, Path(folder), overwrite=overwrite)
        for _ in predictor.stream_masks(files, paths):
            pass
        return paths

    def generate(
        self,
        folder: str | Path,
        *,
        seeds: Sequence[int] = range(64),
        label: str | int | None = None,
        truncation: float = 1.0,
        grid: bool = False,
        interpolate: int | None = None,
        mix: Sequence[int] | None = None,
        project: str | Path | None = None,
        steps: int = 1000,
        overwrite: bool = False,
    ) -> list[Path]:
        """Write what the generator of a GAN makes of seeds, the same on every machine.

        Unless one of the sheets below is asked for, an image for each seed, ``seed0000.png``, and
        all of them in ``grid.png``.

        Args:
            folder: where to write.
            seeds: at least 0 each.
            label: the class of all images, by name or number; None goes through the classes in
                turn. Of conditional generators only.
            truncation: from 1, as it was trained, to 0, the mean: the less, the more ordinary.
            grid: whether to write the grid alone.
            interpolate: write ``interpolation.png``, a row for each two seeds that follow each
                other, in so many steps.
            mix: write ``mixing.png``: images of the first half of the seeds, a row each, with the
                styles of the second half, a column each, in these layers. Of StyleGAN2 only.
            project: write ``projection.png``, this image and what comes nearest to it. Likewise.
            steps: of the search for that.
            overwrite: whether files may be there already.

        Returns:
            The files.

        Raises:
            UserError: the run is no GAN, cannot do this, or a file is there already.
        """
        return generation.generate(
            self,
            Path(folder),
            seeds=seeds,
            label=label,
            truncation=truncation,
            grid=grid,
            interpolate=interpolate,
            mix=mix,
            project=None if project is None else Path(project),
            steps=steps,
            overwrite=overwrite,
        )

    def test(self) -> dict[str, float]:
        """Test the best state again on the test split; what was measured joins the run.

        Returns:
            The metrics of the test. The status of the run stays as it is.
        """
        import lightning.pytorch as pl

        from lit_imgproc.callbacks.progress import Progress

        quiet()
        known = ("accelerator", "precision", "limit_test_batches")
        options = {key: value for key, value in self.recipe["trainer"].items() if key in known}
        trainer = pl.Trainer(
            **options, devices=1, logger=False, callbacks=[Progress()], enable_checkpointing=False
        )
        trainer.test(self.module, datamodule=self.datamodule, verbose=False)
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        step = checkpoints.read(self.checkpoint)["global_step"]
        add_metrics(self.record, metrics, step=step, uri=self.uri)
        return metrics

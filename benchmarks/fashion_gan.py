"""What a GAN of Fashion-MNIST is worth: beside a Gaussian, beside real images, and by class.

Told are

- FID on validation images after the first and after the last validation of the run;
- FID, KID, precision and recall against the 10,000 test images, by the run's own features, of as
  many images each: made by the run, of the seeds from 0 on; drawn from the Gaussian with the mean
  and the covariance of the training images' pixels, kept in [0, 1]; and training images, which is
  what a generator can hope for;
- what a classifier of Fashion-MNIST calls the images of the run. Of a conditional run, how often
  it is the class that was asked for, by class and in all, with Wilson's 95 % interval, and how
  often it is right about test images, which is what can be hoped for; of another, how many of each
  class.

    python benchmarks/fashion_gan.py RUN CLASSIFIER_RUN
    python benchmarks/fashion_gan.py RUN CLASSIFIER_RUN --json     # and a last line of JSON

On one core this takes some minutes. The data lie under LIT_IMGPROC_DATA.
"""

import argparse
import json
import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from mlflow.tracking import MlflowClient

from lit_imgproc import load_run
from lit_imgproc.data.imagenet.datamodule import FashionMNIST
from lit_imgproc.explain.faithfulness import interval
from lit_imgproc.models.image_sets import ImageSetMetrics
from lit_imgproc.recipes.run import default_store

AT_ONCE = 200


def data():
    """Images ``[N,1,28,28]`` in [0, 1] and labels ``[N]``, of training and of the test."""
    root = Path(os.environ.get("LIT_IMGPROC_DATA", "data")) / "fashion_mnist"
    return [
        (torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255, torch.from_numpy(labels))
        for images, labels in FashionMNIST(root=str(root)).read_arrays()
    ]


def made(module, labels):
    """An image a label, of the seeds from 0 on; the labels count where the run is conditional."""
    parts = []
    for first in range(0, len(labels), AT_ONCE):
        asked = labels[first : first + AT_ONCE].tolist()
        seeds = range(first, first + len(asked))
        parts.append(module.generate(seeds, labels=asked if module.num_classes else None))
    return torch.cat(parts)


def gaussian(images, count):
    """Draws from the Gaussian that fits images."""
    flat = images.flatten(1).double().numpy()
    random = np.random.default_rng(0)
    drawn = random.multivariate_normal(flat.mean(0), np.cov(flat.T), count, method="eigh")
    return torch.from_numpy(drawn).float().clamp(0, 1).view(count, *images.shape[1:])


@torch.inference_mode()
def distances(metrics, real, fake):
    """FID, KID, precision and recall; what is known of the real images is kept."""
    metrics.reset()
    for images, is_real in ((real, True), (fake, False)):
        for some in images.split(AT_ONCE):
            metrics.update(some, real=is_real)
    return {name: float(value) for name, value in metrics.compute().items()}


@torch.inference_mode()
def called(classifier, images):
    """What the classifier calls images: ``[N]``."""
    return torch.cat([classifier(some).argmax(1) for some in images.split(AT_ONCE)])


def history(run, name):
    """The first and the last value of a metric."""
    points = MlflowClient(run.uri).get_metric_history(run.id, name)
    points.sort(key=lambda point: point.step)
    return points[0].value, points[-1].value


def share(hits):
    """How many of them are true, as text and as numbers."""
    low, high = interval(int(hits.sum()), len(hits))
    value = float(hits.float().mean())
    return f"{value:.3f} ({low:.3f} to {high:.3f})", [value, low, high]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", help="a GAN of Fashion-MNIST")
    parser.add_argument("classifier", help="a classifier of Fashion-MNIST")
    parser.add_argument("--store", default=default_store(), help="the MLflow store of both")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    run = load_run(options.run, uri=options.store)
    classifier = load_run(options.classifier, uri=options.store).module
    module = run.module
    features = run.recipe["model"]["features"]
    (train, _), (test, labels) = data()

    first, last = history(run, f"val/fid_{features}")
    print(
        f"FID on validation images: first {first:.2f}, last {last:.2f} ({last / first:.2f} of it)"
    )

    fakes = made(module, labels)
    chosen = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[: len(test)]
    sets = {
        "the run": fakes,
        "Gaussian of the pixels": gaussian(train, len(test)),
        "training images": train[chosen],
    }
    metrics = ImageSetMetrics(features)
    rows = {name: distances(metrics, test, images) for name, images in sets.items()}
    print(f"\n{f'{len(test)} images, by {features}':36}     FID      KID  precision  recall")
    for name, row in rows.items():
        fid, kid, precision, recall = row.values()
        print(f"{name:36}{fid:8.2f} {kid:8.4f} {precision:10.3f} {recall:7.3f}")

    told = {"run": run.id, "val_fid": [first, last], "test": rows}
    found = called(classifier, fakes)
    if module.num_classes:
        right = {"the run": found == labels, "test images": called(classifier, test) == labels}
        told["agreement"] = {}
        print("\nthe classifier finds the class that was asked for, or is there")
        for name, hits in right.items():
            text, told["agreement"][name] = share(hits)
            print(f"{name:36}{text}")
        for number, name in enumerate(FashionMNIST.class_names):
            text, told["agreement"][name] = share(right["the run"][labels == number])
            print(f"  {name:34}{text}")
    else:
        counts = torch.bincount(found, minlength=len(FashionMNIST.class_names)).tolist()
        told["classes"] = dict(zip(FashionMNIST.class_names, counts, strict=True))
        print("\nso many images of the run are called")
        for name, count in told["classes"].items():
            print(f"  {name:34}{count:6}")
    if options.json:
        print(json.dumps(told))


if __name__ == "__main__":
    main()

"""The data set of a run as an MLflow dataset input."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from mlflow.entities import Dataset, DatasetInput, InputTag
from mlflow.types.schema import Schema, TensorSpec

from lit_imgproc.tracking.logger import MLflowTracker

LONGEST_DIGEST = 36  # characters, MLflow's limit


def log_dataset(
    tracker: MLflowTracker,
    *,
    name: str,
    source: str,
    digest: str,
    facts: Mapping[str, Any],
    splits: Mapping[str, int],
) -> None:
    """Record which data a run read. The MLflow UI shows it in the run's "Datasets" field.

    Args:
        tracker: The run.
        name: The datamodule's name, such as ``fashion_mnist``.
        source: Where it lies, a path or URL.
        digest: sha256 of the content, in hexadecimal. MLflow keeps its first 36 characters as the
            digest, the profile holds all of it.
        facts: What the datamodule knows of its images; ``image_size`` and ``in_channels`` also
            give the schema.
        splits: Number of images in each split.
    """
    shape = (-1, *facts.get("image_size", (-1, -1)), facts.get("in_channels", -1))
    features = Schema([TensorSpec(np.dtype(np.uint8), shape, "image")])
    dataset = Dataset(
        name=name,
        digest=digest[:LONGEST_DIGEST],
        source_type="local",
        source=json.dumps({"uri": source}),
        schema=json.dumps({"mlflow_tensorspec": {"features": features.to_json(), "targets": None}}),
        profile=json.dumps({"sha256": digest, "splits": dict(splits), **facts}),
    )
    recorded = DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])
    tracker.log_inputs([recorded])

"""Names and values as MLflow takes them."""

import json
import re
from collections.abc import Mapping
from functools import cache
from typing import Any


@cache  # a training logs the same few names at every step
def entity_name(key: str) -> str:
    """``key`` as MLflow takes it: at most 250 letters, digits and ``_/.-:`` and spaces."""
    key = re.sub(r"[^\w/.\-: ]", "_", key)
    # A name is also a path in MLflow: no empty, "." or ".." parts.
    return "/".join(part for part in key.split("/") if part not in ("", ".", ".."))[:250]


def image_key(key: str) -> str:
    """``key`` as MLflow takes it for images: ASCII letters, digits and ``_-./`` and spaces."""
    return re.sub(r"[^a-zA-Z0-9_\-./ ]", "_", key)


def flatten(params: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested parameters as dotted MLflow names and text; lists become JSON."""
    flat: dict[str, str] = {}
    for key, value in params.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            text = json.dumps(value, default=str) if isinstance(value, list | tuple) else str(value)
            flat[entity_name(f"{prefix}{key}")] = text
    return flat

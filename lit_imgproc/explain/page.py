"""A report as one page of HTML, which needs nothing beside itself and asks nobody for anything."""

import base64
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lit_imgproc.explain import drawing
from lit_imgproc.explain.explanation import Explanation, Report
from lit_imgproc.explain.methods import METHODS
from lit_imgproc.pictures import Picture

TOP = 5
"""So many classes of a classifier are shown."""
LISTED = 10
"""So many objects, or classes of a segmenter, are."""
ENDS = {False: ("least", "most"), True: ("against", "for")}
"""What the ends of the two scales of colours mean, the second one with a sign."""


def page(
    report: Report,
    *,
    title: str,
    facts: Mapping[str, str],
    class_names: Sequence[str],
    sections: Sequence[tuple[str, str, Picture | bytes]] = (),
) -> str:
    """Lay a report out as one HTML file: facts, methods compared, a card for each image.

    Its pictures are data URIs, it requests nothing, and it is whole without JavaScript, which only
    adds a slider for the opacity of the maps. It prints, and follows the reader's light or dark
    mode.

    Args:
        report: What was measured of it is shown, and explained; nothing is said of the rest.
        title: Of the page.
        facts: What the reader should know of the run and of the methods' settings, by name.
        class_names: All that the network knows.
        sections: What else there is to see of the network: heading, sentence, and a picture or the
            bytes of a file of one, such as a PNG of matplotlib's.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("lit_imgproc", "explain"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["two"] = lambda value: f"{value:.2f}".replace("-", "\N{MINUS SIGN}")
    mapped = {method for one in report.explanations for method in one.maps}
    methods = {method: about for method, about in METHODS.items() if method in mapped}
    return environment.get_template("page.html.j2").render(
        title=title,
        facts=facts,
        class_names=class_names,
        about=METHODS,
        methods=methods,
        coarse=any(one.file in ("cam", "attention") for one in methods.values()),
        ramps=[
            (*ends, _encoded(drawing.ramp(signed)))
            for signed, ends in ENDS.items()
            if any(one.signed is signed for one in methods.values())
        ],
        strength=drawing.strength,
        rows=_rows(report),
        measured={name for means in report.means.values() for name in means},
        counts=Counter(
            name
            for one in report.explanations
            for name in {name for numbers in one.numbers.values() for name in numbers}
        ),
        checked=bool(report.similarity or report.failed),
        agreement=report.agreement,
        cards=[_card(one, report) for one in report.explanations],
        sections=[
            (heading, text, _file(seen) if isinstance(seen, bytes) else _encoded(seen))
            for heading, text, seen in sections
        ],
    )


# Methods -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Row:
    """A method in the table.

    Attributes:
        title: Its name.
        paper: Where it is from; empty of the map of noise.
        means: Of the report.
        similarity: Of the report.
        failed: Whether the sanity check was failed; None where it was not done.
    """

    title: str
    paper: str
    means: Mapping[str, float]
    similarity: Sequence[float]
    failed: bool | None


def _rows(report: Report) -> list[_Row]:
    """The methods that something was measured of, and a random map below them."""
    rows = []
    for method, about in METHODS.items():
        failed, similarity = method in report.failed, report.similarity.get(method, [])
        if failed or similarity or method in report.means:
            paper = f"{'doi' if about.paper.startswith('10.') else 'arXiv'} {about.paper}"
            checked = failed if failed or similarity else None
            rows.append(_Row(about.title, paper, report.means.get(method, {}), similarity, checked))
    if rows and "random" in report.means:
        rows.append(_Row("A random map", "", report.means["random"], [], None))
    return rows


# Images --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Image:
    """An image as an element of HTML wants it: a data URI, and its size in pixels."""

    uri: str
    width: int
    height: int


@dataclass(frozen=True)
class _Map:
    """A map, as it is laid over the image of its card."""

    method: str
    layer: _Image
    lines: Sequence[str]
    failed: bool


@dataclass(frozen=True)
class _Bars:
    """Numbers in [0, 1] by name: what they are, those that are shown, and how many more there are.

    ``chosen`` is the name that is explained, where it can only be one of them.
    """

    title: str
    shown: Sequence[tuple[str, float]]
    more: int
    chosen: str


@dataclass(frozen=True)
class _Card:
    """An image, what the network says of it, and its maps."""

    id: str
    answer: str
    truth: str
    right: bool | None
    lines: Sequence[str]
    bars: _Bars | None
    image: _Image
    enlarged: bool
    maps: Sequence[_Map]


def _card(explanation: Explanation, report: Report) -> _Card:
    image, truth = _encoded(drawing.tile(explanation)), explanation.truth
    answer = _answer(explanation.prediction)
    return _Card(
        id=explanation.id,
        answer=answer,
        truth=truth,
        right=answer == truth if answer and truth else None,
        lines=drawing.says_of_image(explanation),
        bars=_bars(explanation.prediction, explanation.target_name),
        image=image,
        enlarged=image.width > explanation.image.shape[-1],
        maps=[
            _Map(
                method,
                _encoded(drawing.layer(explanation, method)),
                drawing.says_of_map(explanation, method),
                method in report.failed,
            )
            for method in explanation.maps
        ],
    )


def _answer(prediction: Mapping[str, Any]) -> str:
    """The class that a classifier answers, or the classes; empty of other families."""
    label = prediction.get("label", "")
    return label if isinstance(label, str) else ", ".join(label) or "none of its classes"


def _bars(prediction: Mapping[str, Any], chosen: str) -> _Bars | None:
    """What a classifier, a detector or a segmenter says of an image, greatest first."""
    if "probabilities" in prediction:
        title, limit, pairs = "Most probable classes", TOP, prediction["probabilities"].items()
    elif "scores" in prediction:
        pairs = zip(prediction["labels"], prediction["scores"], strict=True)
        title, limit, chosen = "Objects found, by score", LISTED, ""  # may be of like names
    elif "classes" in prediction:
        title, limit, pairs = "Shares of the classes", LISTED, prediction["classes"].items()
    else:
        return None
    ranked = sorted(pairs, key=lambda pair: pair[1], reverse=True)
    return _Bars(title, ranked[:limit], len(ranked[limit:]), chosen)


# Files ---------------------------------------------------------------------------------------


def _encoded(pixels: NDArray[np.uint8]) -> _Image:
    """Pixels ``[H, W, 3 or 4]`` as WebP: of one without loss and one with, the smaller."""
    from PIL import Image

    files = []
    for options in ({"lossless": True}, {"quality": 85}):
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "WEBP", **options)
        files.append(file.getvalue())
    return _Image(_uri("webp", min(files, key=len)), pixels.shape[1], pixels.shape[0])


def _file(content: bytes) -> _Image:
    """The file of a picture, as it is."""
    from PIL import Image

    with Image.open(io.BytesIO(content)) as image:
        return _Image(_uri(str(image.format).lower(), content), *image.size)


def _uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"

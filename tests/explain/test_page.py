"""The page of a report: well-formed, complete in itself, and nothing in it but what was meant."""

import base64
import html.parser
import io
import re

import numpy as np
from PIL import Image

from lit_imgproc.explain import drawing
from lit_imgproc.explain.explanation import Explanation, Report
from lit_imgproc.explain.page import page
from lit_imgproc.models.detection.attribution import BoxTarget
from lit_imgproc.models.targets import Target

VOID = {"meta", "link", "img", "br", "input"}
HOSTILE = "<script>alert(\"x\")</script> & 'q' https://evil.example/a.js"


class Parsed(html.parser.HTMLParser):
    """Elements as (tag, attributes, text within), with a check that all are closed in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.ids = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []
        assert len(self.ids) == len(set(self.ids))

    def handle_starttag(self, tag, attrs):
        assert len(attrs) == len(dict(attrs))
        element = (tag, dict(attrs), [])
        self.elements.append(element)
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        for _, _, text in self.open:
            text.append(data)

    def all(self, tag, name=None):
        """Attributes and text of the elements of a tag, or of those of a class."""
        return [
            (attrs, " ".join("".join(text).split()))
            for found, attrs, text in self.elements
            if found == tag and (name is None or name in attrs.get("class", "").split())
        ]

    def texts(self, tag, name=None):
        return [text for _, text in self.all(tag, name)]


def decoded(uri):
    kind, data = re.fullmatch(r"data:image/(\w+);base64,([A-Za-z0-9+/=]+)", uri).groups()
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    assert image.format.lower() == kind
    return image


def classified(name="a.png", probabilities=(0.7, 0.2, 0.1), truth="", size=56, methods=()):
    names = [f"class {k}" for k in range(len(probabilities))]
    random = np.random.default_rng(0)
    return Explanation(
        name,
        random.random((3, size, size), np.float32),
        {
            "id": name,
            "label": names[0],
            "score": probabilities[0],
            "probabilities": dict(zip(names, probabilities, strict=True)),
        },
        Target(0),
        names[0],
        truth,
        maps={method: random.random((size, size), np.float32) for method in methods},
    )


def parsed(report, **options):
    return Parsed(page(report, **{"title": "T", "facts": {}, "class_names": ["a"]} | options))


MEASURED = Report(
    [classified(methods=["grad_cam", "occlusion"], truth="class 0")],
    means={
        "grad_cam": {"insertion": 0.6, "deletion": 0.2, "pointing": 0.75}
        | {"pointing_low": 0.4, "pointing_high": 0.9},
        "occlusion": {"insertion": 0.5, "deletion": 0.25},
        "random": {"insertion": 0.3, "deletion": 0.35},
    },
    similarity={"grad_cam": [0.5, 0.1], "occlusion": [0.9, -0.8]},
    failed=["occlusion"],
    agreement={
        "grad_cam": {"grad_cam": 1.0, "occlusion": -0.25},
        "occlusion": {"grad_cam": -0.25, "occlusion": 1.0},
    },
)


def test_the_page_asks_nobody_for_anything():
    text = page(
        MEASURED,
        title="T",
        facts={"Paper": "https://example.org"},
        class_names=["a"],
        sections=[("H", "S", np.zeros((8, 8, 3), np.uint8))],
    )
    found = Parsed(text)
    for tag, attributes, _ in found.elements:
        assert tag not in {"iframe", "object", "embed", "base", "video", "audio", "use"}
        for name, given in attributes.items():
            value = given or ""
            assert not re.search(r"https?:|//", re.sub(r"data:image/\w+;base64,[^)]+", "", value))
            if name in ("src", "href"):
                assert value.startswith("data:")
            assert not name.startswith("on")
    for code in found.texts("style") + found.texts("script"):
        assert not re.search(r"//|@import|url\((?!data:)|fetch|import\b", code)
    policy = next(a["content"] for a, _ in found.all("meta") if "http-equiv" in a)
    assert policy.startswith("default-src 'none'")


def test_every_picture_can_be_decoded_and_has_the_size_that_it_says():
    figure = io.BytesIO()
    Image.new("RGB", (30, 20)).save(figure, "PNG")
    found = parsed(
        Report([classified(size=56, methods=["grad_cam", "occlusion"])]),
        sections=[
            ("Filters", "One.", np.full((12, 34, 3), 7, np.uint8)),
            ("Embeddings", "Two.", figure.getvalue()),
        ],
    )
    images = [attributes for attributes, _ in found.all("img")]
    assert all(image["alt"] for image in images)
    sizes = [decoded(image["src"]).size for image in images]
    assert sizes == [(int(image["width"]), int(image["height"])) for image in images]
    assert sizes == [(101, 1)] * 2 + [(224, 224)] * 3 + [(34, 12), (30, 20)]
    ((card, _),) = found.all("article")
    assert decoded(card["style"].removeprefix("--photo:url(").removesuffix(")")).size == (224, 224)
    assert "enlarged" in card["class"]
    assert np.asarray(decoded(images[-2]["src"])).tolist() == np.full((12, 34, 3), 7).tolist()
    assert found.texts("h3")[-2:] == ["Filters", "Embeddings"]


def test_layers_are_those_of_the_drawing():
    one = classified(methods=["occlusion"])
    images = [attributes for attributes, _ in parsed(Report([one])).all("img")]
    seen = np.asarray(decoded(images[-1]["src"]).convert("RGBA"))
    drawn = drawing.layer(one, "occlusion")
    assert (seen[..., 3] == drawn[..., 3]).all()
    opaque = drawn[..., 3] > 200
    assert abs(seen[opaque].astype(int) - drawn[opaque]).mean() < 3


def test_whatever_is_named_hostilely_stays_text():
    one = classified(HOSTILE, methods=["grad_cam"], truth=HOSTILE)
    one.prediction = {**one.prediction, "label": HOSTILE, "probabilities": {HOSTILE: 0.5}}
    one.target_name = HOSTILE
    found = parsed(
        Report([one]),
        title=HOSTILE,
        facts={HOSTILE: HOSTILE},
        class_names=[HOSTILE],
        sections=[(HOSTILE, HOSTILE, np.zeros((8, 8, 3), np.uint8))],
    )
    assert len(found.all("script")) == 1
    assert "alert" not in found.texts("script")[0]
    assert found.texts("title") == found.texts("h1") == [HOSTILE]
    assert found.texts("h3") == [HOSTILE] * 2
    assert found.texts("dd")[:2] == [HOSTILE] * 2
    assert [a["alt"] for a, _ in found.all("img")][-1] == HOSTILE


def test_methods_are_compared_with_a_random_map():
    found = parsed(MEASURED)
    head, first, second, random = found.texts("tr")[:4]
    for name in ("Insertion", "Deletion", "Pointing game", "Sanity check"):
        assert name in head
        assert any(text.startswith(name) for text in found.texts("dt"))
    assert first == "Grad-CAMarXiv 1610.02391 0.60 0.20 0.75 0.40 to 0.90 passed0.50, 0.10"
    assert second == "OcclusionarXiv 1311.2901 0.50 0.25 failed0.90, \N{MINUS SIGN}0.80"
    assert random == "A random map 0.30 0.35"
    assert found.texts("tr")[4:] == [
        "Grad-CAMOcclusion",
        "Grad-CAM 1.00 \N{MINUS SIGN}0.25",
        "Occlusion \N{MINUS SIGN}0.25 1.00",
    ]


def test_a_method_that_fails_is_marked_on_its_maps():
    good, bad = parsed(MEASURED).all("figure")[1:]
    assert good[0]["class"] == "grad_cam"
    assert bad[0]["class"] == "occlusion failed"
    assert "fails sanity check" in bad[1]
    assert "fails" not in good[1]


def test_what_was_not_measured_is_not_spoken_of():
    found = parsed(Report([classified(methods=["grad_cam"])]))
    assert found.all("table") == []
    assert found.texts("h2") == ["Images"]
    only = Report([], means={"grad_cam": {"insertion": 0.5}, "random": {"insertion": 0.4}})
    found = parsed(only)
    assert len(found.all("table")) == 1
    assert [text.split()[0] for text in found.texts("dt")] == ["Classes", "Insertion"]
    assert "No image was explained." in found.texts("p")


def test_a_classifier_shows_five_classes_and_whether_it_is_right():
    shares = (0.4, 0.05, 0.3, 0.1, 0.08, 0.04, 0.03)
    right, wrong = classified("r", shares, "class 0"), classified("w", shares, "class 2")
    found = parsed(Report([right, wrong, classified("u", shares)]))
    first, second, third = found.texts("article")
    assert "Answerclass 0 right" in first.replace(" class", "class")
    assert "wrong" in second
    assert "right" not in third
    assert "Truth" not in third
    assert found.texts("li")[:5] == [
        f"class {k}{value:.2f}" for k, value in [(0, 0.4), (2, 0.3), (3, 0.1), (4, 0.08), (1, 0.05)]
    ]
    assert "and 2 more" in first
    assert [text for a, text in found.all("li") if a.get("class") == "chosen"][:1] == [
        "class 00.40"
    ]


def test_several_labels_a_detector_and_a_segmenter():
    image = np.zeros((3, 32, 32), np.float32)
    heat = {"hires_cam": np.eye(32, dtype=np.float32)}
    several = Explanation(
        "a", image, {"label": ["x", "y"], "probabilities": {"x": 0.9, "y": 0.8}}, Target(0), "x"
    )
    objects = {"boxes": [[0, 0, 9, 9]] * 12, "labels": ["car"] * 12, "scores": [0.5] * 12}
    detected = Explanation("b", image, objects, BoxTarget(0, [1.0, 2.0, 9.0, 9.0]), "car", "", heat)
    segmented = Explanation("c", image, {"classes": {"sky": 0.25, "sea": 0.75}}, None, "")
    nowhere = Explanation("d", image, {"boxes": [], "labels": [], "scores": []}, None, "")
    found = parsed(Report([several, detected, segmented, nowhere]))
    a, b, c, d = found.texts("article")
    assert "x, y" in a
    assert "and 2 more" in b
    assert c.index("sea") < c.index("sky")
    assert "None." in d
    assert "nothing found to explain" in d
    assert [a.get("class") for a, text in found.all("li") if text.startswith("car")] == [None] * 10


def test_many_classes_are_folded_away():
    assert len(parsed(Report([]), class_names=[str(k) for k in range(100)]).all("details")) == 1
    assert parsed(Report([]), class_names=["a", "b"]).all("details") == []


def test_it_is_whole_without_javascript_and_methods_can_be_hidden_by_css():
    text = page(MEASURED, title="T", facts={}, class_names=["a"])
    found = Parsed(text)
    assert [a["id"] for a, _ in found.all("input") if a["type"] == "checkbox"] == [
        "show-grad_cam",
        "show-occlusion",
    ]
    (style,) = found.texts("style")
    assert "body:has(#show-occlusion:not(:checked)) .occlusion { display: none; }" in style
    assert style.count("{") == style.count("}")
    ((slider, _),) = [a for a in found.all("label") if "hidden" in a[0]]
    assert slider["class"] == "slider"


def test_the_photo_is_there_twice_and_not_once_a_map():
    text = page(MEASURED, title="T", facts={}, class_names=["a"])
    photo = next(a["src"] for a, _ in Parsed(text).all("img") if a["alt"] == "The image a.png")
    assert text.count(photo) == 2

import math

import pytest
import yaml

from lit_imgproc.recipes.text import RecipeError, dump, merge, read


def value_of(text):
    return read(f"x: {text}", "file")[0]["x"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("5E3", 5e3),
        ("1.", 1.0),
        ("-.5", -0.5),
        ("+1.5e+2", 150.0),
        ("-.inf", -math.inf),
        ("12", 12),
        ("-3", -3),
        ("010", 10),
        ("0x1F", 31),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
    ],
)
def test_scalars_of_yaml_1_2(text, value):
    assert value_of(text) == value
    assert type(value_of(text)) is type(value)


@pytest.mark.parametrize(
    "text", ["yes", "no", "on", "off", "12:00:00:00", "1_000", "2026-11-23", "1e", ".", "e5", "-"]
)
def test_text_that_yaml_1_1_would_change(text):
    assert value_of(text if text != "-" else "'-'") == text


def test_nan_is_a_number():
    assert math.isnan(value_of(".nan"))


@pytest.mark.parametrize(
    "value",
    [
        *("1e-4", "yes", "no", "12:30", "null", "0x10", "", "a: b", "${oc.env:A,b}", 1e-5, 5e-4, 1),
        *(
            True,
            None,
            math.inf,
            [1, "1"],
            {"a/b": {"c": [1.5, None]}},
            "Größe",
            "two\nlines",
            "x " * 80,
        ),
    ],
)
def test_dump_is_read_back(value):
    assert read(dump({"x": value}), "file")[0] == {"x": value}
    # ... also by others, who read YAML 1.1.
    if not isinstance(value, float):
        assert yaml.safe_load(dump({"x": value})) == {"x": value}


def test_shared_values_are_written_out():
    shared = {"a": 1}
    assert "&" not in dump({"x": shared, "y": shared})


def test_lines_of_keys_and_items():
    _, lines, twice = read("a: 1\nb:\n  c: 2\n  d:\n    - 3\n    - 4\n", "file")
    expected = {("a",): 1, ("b",): 2, ("b", "c"): 3, ("b", "d"): 4}
    assert lines == expected | {("b", "d", 0): 5, ("b", "d", 1): 6}
    assert twice == []


def test_keys_given_twice():
    value, lines, twice = read("a:\n  b: 1\n  b: 2\n", "file")
    assert twice == [("a", "b")]
    assert value == {"a": {"b": 2}}
    assert lines["a", "b"] == 3


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: [1\nb: 2", "file:2: "),
        ("a: 1\n  b: 2", "file:2: "),
        ("a: 1\n---\nb: 2", "file:2: "),
        ("a: !!python/name:os.system ''", "file:1: "),
        ("[a, b]: 1", "file:1: "),
        ("a: !!int x", "file: "),
        ("a: &a {b: *a}", "file: "),
        ("a: \x00", "file: "),
    ],
)
def test_what_is_not_yaml_is_one_sentence(text, line):
    with pytest.raises(RecipeError) as error:
        read(text, "file")
    (sentence,) = error.value.lines
    assert sentence.startswith(f"{line}this is not valid YAML: ")
    assert "\n" not in sentence


def test_aliases_are_copied():
    value, _, _ = read("a: &x {b: 1}\nc: *x", "file")
    assert value == {"a": {"b": 1}, "c": {"b": 1}}


@pytest.mark.parametrize(
    ("base", "top", "merged"),
    [
        ({"a": 1, "b": {"c": 1}}, {"b": {"d": 2}}, {"a": 1, "b": {"c": 1, "d": 2}}),
        ({"b": [1, 2]}, {"b": [3]}, {"b": [3]}),
        ({"b": {"c": 1}}, {"b": None}, {"b": None}),
        ({"b": None}, {"b": {"c": 1}}, {"b": {"c": 1}}),
        # A block whose name changes starts afresh, one that gets its first name does not.
        ({"b": {"name": "x", "c": 1}}, {"b": {"name": "y"}}, {"b": {"name": "y"}}),
        ({"b": {"name": "x", "c": 1}}, {"b": {"name": "x"}}, {"b": {"name": "x", "c": 1}}),
        ({"b": {"c": 1}}, {"b": {"name": "y"}}, {"b": {"name": "y", "c": 1}}),
        # The key of a callback is its name, unless it says another.
        (
            {"callbacks": {"ema": {"decay": 0.9}}},
            {"callbacks": {"ema": {"name": "my:EMA"}}},
            {"callbacks": {"ema": {"name": "my:EMA"}}},
        ),
        # `name` means nothing special in tags.
        (
            {"tracking": {"tags": {"name": "x", "c": 1}}},
            {"tracking": {"tags": {"name": "y"}}},
            {"tracking": {"tags": {"name": "y", "c": 1}}},
        ),
    ],
)
def test_merge(base, top, merged):
    assert merge(base, top) == merged

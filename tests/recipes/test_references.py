import pytest

from lit_imgproc.recipes.references import from_environment, resolve
from lit_imgproc.recipes.text import RecipeError


@pytest.fixture(autouse=True)
def _secret(monkeypatch):
    monkeypatch.setenv("TOKEN", "hunter2")
    monkeypatch.delenv("UNSET", raising=False)


def test_keys():
    values = {"a": 1, "b": {"c": "${a}", "d": ["x${a}", "${b.c}"]}, "e": "${b}"}
    result, mistakes = resolve(values, environment=False)
    assert mistakes == []
    assert result == {"a": 1, "b": {"c": 1, "d": ["x1", 1]}, "e": {"c": 1, "d": ["x1", 1]}}
    assert values["b"]["c"] == "${a}"


@pytest.mark.parametrize(
    "text",
    [
        "${oc.env:TOKEN}",
        "http://me:${oc.env:TOKEN}@host",
        "${oc.env:UNSET,null}",
        '${oc.env:UNSET,"a b, {c}"}',
        "${oc.env:UNSET,sqlite:///mlruns/mlflow.db}",
    ],
)
def test_the_environment_stays_a_reference_through_chains(text):
    values = {"a": text, "b": "${a}", "c": "${b}/x", "d": {"e": ["${c}"]}, "f": "${d}", "g": text}
    kept, mistakes = resolve(values, environment=False)
    assert mistakes == []
    assert "hunter2" not in str(kept)
    assert kept["f"] == kept["d"]
    assert kept["c"] == kept["b"] + "/x"
    # What is kept means the same as what was written.
    direct = from_environment({"a": text})["a"]
    again = from_environment(kept)
    assert again["a"] == again["b"] == again["g"] == direct
    assert again["d"]["e"] == [f"{direct if direct is not None else 'None'}/x"]


def test_nested_references_in_a_default():
    values = {
        "a": "${oc.env:UNSET,${oc.env:TOKEN}}",
        "n": "TOKEN",
        "b": "${oc.env:${n}}",
        "c": "${a}",
    }
    kept, mistakes = resolve(values, environment=False)
    assert mistakes == []
    assert "hunter2" not in str(kept)
    used = from_environment(kept)
    assert (used["a"], used["b"], used["c"]) == ("hunter2", "hunter2", "hunter2")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("${nope.b}", "no such key"),
        ("${x}", "it leads back to itself"),
        ("${a", "a reference is written ${a.b} or ${oc.env:NAME,default}"),
        ("${oc.decode:${oc.env:TOKEN}}", "only ${a.b} and ${oc.env:NAME,default} can be used"),
    ],
)
def test_mistakes(text, sentence):
    result, mistakes = resolve({"x": text, "ok": "${y}", "y": 2}, environment=False)
    assert [(m.key, m.sentence) for m in mistakes] == [("x", f"got {text}; {sentence}")]
    assert result == {"x": text, "ok": 2, "y": 2}


def test_a_variable_that_is_not_set():
    assert resolve({"x": ["${oc.env:UNSET}"]}, environment=False)[1] == []
    with pytest.raises(RecipeError) as error:
        from_environment({"x": ["${oc.env:UNSET}"]})
    assert error.value.lines == [
        "x.0: got ${oc.env:UNSET}; the environment variable UNSET is not set"
    ]

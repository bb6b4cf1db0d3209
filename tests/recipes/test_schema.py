import pytest

from lit_imgproc.recipes.compose import compose
from lit_imgproc.recipes.schema import OWNED, trainer_parameters, validate
from lit_imgproc.recipes.text import RecipeError

RECIPE = """\
recipe:
  title: T
  system: S
  expects:
    test/accuracy: {value: 0.9, tolerance: 0.01, source: measured, seeds: 3}
seed: 0
model:
  name: stand_ins:Learner
  network: {name: stand_ins:Net}
  rate: 0.1
  optimizer: {name: sgd, lr: 0.1}
data:
  name: stand_ins:Data
  root: there
trainer: {max_epochs: 1, precision: bf16-mixed, max_time: "00:12:00:00"}
callbacks:
  quiet: {name: stand_ins:Quiet}
tracking: {experiment: e}
"""


@pytest.fixture
def mistakes(tmp_path, monkeypatch):
    """The lines that a recipe with overrides gives, without the place where it is the override."""
    monkeypatch.chdir(tmp_path)

    def mistakes(*overrides, text=RECIPE):
        (tmp_path / "r.yaml").write_text(text)
        try:
            validate(compose("r.yaml", overrides))
        except RecipeError as error:
            return [line.removeprefix("override: ") for line in error.lines]
        return []

    return mistakes


def test_a_right_recipe(mistakes):
    assert mistakes() == []


@pytest.mark.parametrize(
    "override",
    [
        "model.rate=1",
        "model.betas=[0.5, 0.6]",
        "model.folder=a/b",
        "model.crop={size: 3}",
        "model.limit=all",
        "model.optimizer=null",
        "model.num_classes=3",
        "model.network={name: 'stand_ins:open_network', width: 3}",
        "trainer.strategy=ddp",
        "trainer.strategy={name: ddp, find_unused_parameters: true}",
        "trainer.devices=[0, 1]",
        "trainer.limit_val_batches=0.5",
        "callbacks.lr_monitor={}",
        "recipe=null",
        "tracking.tags={name: x}",
    ],
)
def test_right_values(mistakes, override):
    assert mistakes(override) == []


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("model.rate=fast", 'model.rate: got "fast"; a number greater than 0 is needed'),
        ("model.rate=0", "model.rate: got 0; a number greater than 0 is needed"),
        ("model.rate='0.1'", 'model.rate: got "0.1"; a number greater than 0 is needed'),
        ("model.rate=null", "model.rate: got null; a number greater than 0 is needed"),
        ("model.share=1", "model.share: got 1; a number at least 0 and less than 1 is needed"),
        ("model.flag=yes", 'model.flag: got "yes"; true or false is needed'),
        (
            "model.mode=fats",
            'model.mode: got "fats"; one of "fast", "slow" is needed; did you mean fast?',
        ),
        ("model.betas=[1]", "model.betas: got [1]; a list of 2 (each a number) is needed"),
        ("model.limit=0", 'model.limit: got 0; an integer at least 1, "all" or null is needed'),
        ("model.crop.size=a", 'model.crop.size: got "a"; an integer is needed'),
        ("model.crop={}", "model.crop.size: missing; an integer is needed"),
        ("model.network=resnet20", 'model.network: got "resnet20"; a network {name: …} is needed'),
        (
            "model.network.dept=1",
            "model.network.dept: unknown key; did you mean depth? "
            "allowed: num_classes, in_channels, depth",
        ),
        (
            "model.optimizer.name=sgdd",
            'model.optimizer.name: got "sgdd"; no optimizer has this name; did you mean sgd? '
            'allowed: sgd, adam, adamw, rmsprop, or a "package.module:Class" path',
        ),
        ("model.optimizer.lr=-1", None),
        ("model=3", "model: got 3; a block {name: …} is needed"),
        ("model=null", "model: got null; a block {name: …} is needed"),
        ("data.name=3", "data.name: got 3; the name of a datamodule is needed"),
        ("seed=-1", "seed: got -1; an integer at least 0 is needed"),
        ("trainer=fast", 'trainer: got "fast"; a block of keys or null is needed'),
        ("callbacks=[quiet]", 'callbacks: got ["quiet"]; a block of keys or null is needed'),
        ("callbacks.quiet=true", "callbacks.quiet: got true; a block of its arguments is needed"),
        ("callbacks.quiet.every=x", 'callbacks.quiet.every: got "x"; an integer is needed'),
        ("tracking.tags.a=1", "tracking.tags: got"),
        ("recipe.expects.test/accuracy.source=seen", None),
        ("recipe.expects.test/f1={source: measured}", None),
        ("learning_rate=1", "learning_rate: unknown key; allowed: extends, recipe, seed, model, "),
        ("trainer.accelerator=gppu", None),
        ("trainer.strategy=dpp", None),
        ("trainer.strategy.name=dpp", None),
        ("trainer.max_epoch=3", None),
    ],
)
def test_one_mistake_is_one_line(mistakes, override, line):
    (found,) = mistakes(override)
    key = override.partition("=")[0]
    assert found.startswith(line if line is not None else key)


def test_sentences_that_need_two_lines(mistakes):
    """A check of the annotation's own may say several things."""
    assert mistakes("model.pairs=3") == [
        "model.pairs: got 3; an even number is needed",
        "model.pairs: got 3; 2 is one",
    ]


def test_what_is_missing(mistakes):
    text = "model:\n  name: stand_ins:Learner\n  network: {}\n"
    assert mistakes(text=text) == [
        "r.yaml: data: missing; a value is needed",
        "r.yaml:1: model.rate: missing; a number greater than 0 is needed",
        "r.yaml:3: model.network.name: missing; the name of a network is needed",
    ]


@pytest.mark.parametrize("key", OWNED)
def test_what_the_trainer_does_not_get_says_where_it_belongs(mistakes, key):
    assert mistakes(f"trainer.{key}=true") == [f"trainer.{key}: not set here; {OWNED[key]}"]


def test_every_owned_option_is_one_of_the_trainer():
    import inspect

    from lightning.pytorch import Trainer

    assert set(OWNED) <= set(inspect.signature(Trainer).parameters)
    assert not set(OWNED) & set(trainer_parameters())


def test_what_plain_values_refuse_together(mistakes):
    overrides = ("model.optimizer.nesterov=true", "model.optimizer.momentum=0")
    (line,) = mistakes(*overrides)
    assert line == "r.yaml:11: model.optimizer: sgd: nesterov needs a momentum greater than 0."


def test_all_mistakes_at_once_with_their_places(mistakes):
    text = RECIPE.replace("rate: 0.1", "rate: fast").replace("max_epochs: 1", "max_epoch: 1")
    text = text.replace("seed: 0", "seed: 0\nseed: 1").replace("  root: there\n", "")
    lines = mistakes(
        "model.network.name=resnet2", "model.optimizer.lr=${nope}", "nonsense", text=text
    )
    # From composition first, then in the order of the recipe.
    starts = [
        "r.yaml:7: seed: this key is given twice",
        "got nonsense; key=value is needed",
        "model.optimizer.lr: got ${nope}; no such key",
        'r.yaml:11: model.rate: got "fast"; a number greater than 0 is needed',
        'model.network.name: got "resnet2"; no network has this name; did you mean resnet',
        "r.yaml:13: data.root: missing; text is needed",
        "r.yaml:15: trainer.max_epoch: unknown key; did you mean max_epochs",
    ]
    assert len(lines) == len(starts) == 7
    for start in starts:
        assert any(line.startswith(start) for line in lines), start


def test_values_from_the_environment(mistakes, monkeypatch):
    monkeypatch.setenv("RATE", "0.5")
    assert mistakes("model.rate=${oc.env:RATE}") == []
    monkeypatch.setenv("RATE", "hunter2")
    assert mistakes("model.rate=${oc.env:RATE}", "model.mode=${model.rate}") == [
        "model.rate: got the value of ${oc.env:RATE}; a number greater than 0 is needed",
        'model.mode: got the value of ${oc.env:RATE}; one of "fast", "slow" is needed',
    ]
    monkeypatch.delenv("RATE")
    assert mistakes("model.rate=${oc.env:RATE}") == [
        "model.rate: got ${oc.env:RATE}; the environment variable RATE is not set"
    ]


def test_a_key_with_two_faults_is_reported_once(mistakes):
    assert mistakes("model.rate=${nope}") == ["model.rate: got ${nope}; no such key"]

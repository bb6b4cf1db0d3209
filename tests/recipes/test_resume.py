"""A training that is cut off and gone on with is the training that was never cut off."""

from functools import partial

import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision
from resuming import CutOff, bomb, differences, points, state

from lit_imgproc import checkpoints, load_recipe
from lit_imgproc.checkpoints import CheckpointError
from lit_imgproc.errors import UserError
from lit_imgproc.recipes.experiment import resume_run
from lit_imgproc.tracking.records import RunNotFound

SMALL = (
    "trainer.max_epochs=2", "trainer.limit_train_batches=7", "trainer.limit_val_batches=2",
    "trainer.limit_test_batches=2", "trainer.log_every_n_steps=2", "data.num_workers=0",
    "data.batch_size=16", "trainer.enable_model_summary=false", "callbacks.explain=null",
)  # fmt: skip
VARIANTS = {
    "epochs": (),
    "accumulation": ("trainer.accumulate_grad_batches=3", "callbacks.checkpoint.every_n_steps=1"),
    "within an epoch": ("trainer.val_check_interval=3", "callbacks.checkpoint.every_n_steps=2",
                        "model.mixup=0.2", "callbacks.ema.decay=0.9"),
    "every other epoch": ("trainer.check_val_every_n_epoch=2", "model.network.drop_rate=0.3",
                          "callbacks.checkpoint.every_n_steps=4",
                          "callbacks.early_stopping.monitor=val/loss"),
    "workers": ("data.num_workers=2", "callbacks.ema.decay=0.9", "model.cutmix=1",
                "callbacks.checkpoint.every_n_steps=3"),
    "bfloat16": ("trainer.precision=bf16-mixed", "callbacks.checkpoint.every_n_steps=3"),
}  # fmt: skip
MOMENTS = (3, 30, 47, 60, 71, 84, 95)


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def options(store):
    return (*SMALL, f"tracking.uri={store.uri}", f"tracking.artifacts={store.artifacts}")


def train(options, *more, moment=0, **how):
    """The experiment, trained to its end or cut off at a moment."""
    experiment = load_recipe("quickstart", *options, *more)
    with bomb(moment):
        try:
            experiment.train(**how)
        except CutOff:
            assert moment
    return experiment.result()


@pytest.mark.parametrize("variant", VARIANTS)
def test_it_is_equal_bit_for_bit_wherever_it_was_cut_off(store, options, variant):
    alone = train(options, *VARIANTS[variant])
    expected = state(alone), points(store, alone.id)
    assert len(expected[1]["val/loss"]) >= 1
    for moment in MOMENTS:
        cut = train(options, *VARIANTS[variant], moment=moment)
        assert cut.status == "FAILED"
        found = train(options, *VARIANTS[variant], resume=cut.id)
        assert (found.id, found.status) == (cut.id, "FINISHED")
        assert differences(expected[0], state(found)) == [], moment
        assert points(store, found.id) == expected[1], moment


def test_the_scale_of_gradients_goes_on_too(store, options, monkeypatch):
    # Lightning takes no float16 on the CPU by itself. A scale that doubles every third step.
    scaler = partial(torch.amp.GradScaler, "cpu", init_scale=16.0, growth_interval=3)
    monkeypatch.setattr(
        "lit_imgproc.recipes.experiment._environment",
        lambda: [MixedPrecision("16-mixed", "cpu", scaler())],
    )
    more = ("callbacks.checkpoint.every_n_steps=1",)
    alone = train(options, *more)
    saved = torch.load(alone.last_checkpoint(), weights_only=True)["MixedPrecision"]
    assert saved["scale"] > 16
    run = train(options, *more, resume=train(options, *more, moment=60).id)
    assert torch.load(run.last_checkpoint(), weights_only=True)["MixedPrecision"] == saved
    assert differences(state(alone), state(run)) == []


def test_it_may_be_cut_off_again_and_again(store, options):
    more = ("callbacks.checkpoint.every_n_steps=1",)
    alone = train(options, *more)
    run = train(options, *more, moment=20)
    for _ in range(3):
        run = train(options, *more, moment=25, resume=run.id)
    run = train(options, *more, resume=run.id)
    assert differences(state(alone), state(run)) == []
    assert points(store, run.id) == points(store, alone.id)


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(store, options, caplog):
    alone = train(options)
    cut = train(options, moment=115)
    last = cut.last_checkpoint()
    assert (last.parent / "last-1.ckpt").exists()
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 1
    last.write_bytes(content)
    found = train(options, resume=cut.id)
    assert "last.ckpt is damaged" in caplog.text
    assert differences(state(alone), state(found)) == []
    assert points(store, found.id) == points(store, alone.id)


def test_from_the_run_alone_or_a_checkpoint_file(store, options, monkeypatch):
    alone = train(options)
    for by_file in (False, True):
        cut = train(options, moment=80)
        with bomb(0):
            run = resume_run(cut.last_checkpoint()).train() if by_file else cut.resume()
        assert run.id == cut.id
        assert points(store, run.id) == points(store, alone.id)


def test_a_finished_run_goes_on_where_more_is_asked_for(store, options):
    run = train(options)
    with pytest.raises(UserError, match=r"is FINISHED.*raise trainer\.max_epochs"):
        run.resume()
    with bomb(0):
        longer = run.resume("trainer.max_epochs=3")
    assert longer.id == run.id
    assert checkpoints.read(longer.last_checkpoint())["global_step"] == 21
    # What was tested after 14 steps stays; what is tested after 21 is no repetition of it.
    assert [step for step, _ in points(store, run.id)["test/loss"]] == [14, 21]
    assert [step for step, _ in points(store, run.id)["val/loss"]] == [6, 13, 20]
    assert longer.recipe["trainer"]["max_epochs"] == 3


def test_another_experiment_does_not_go_on_with_the_run(options):
    run = train(options, moment=80)
    with pytest.raises(UserError) as raised:
        load_recipe("quickstart", *options, "model.optimizer.lr=0.5", "seed=3").train(resume=run.id)
    *changed, advice = str(raised.value).splitlines()
    assert [line.partition(":")[0] for line in changed] == [
        "data.seed",
        "model.optimizer.lr",
        "seed",
    ]
    assert changed[1].endswith(", not 0.5")
    assert f"model.weights=run:{run.id[:8]}" in advice
    assert run.status == "FAILED"


def test_what_cannot_be_gone_on_from_is_a_sentence(store, options, tmp_path):
    with pytest.raises(RunNotFound, match="begins with 'beef'"):
        resume_run("beef", uri=store.uri)
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        resume_run(tmp_path / "absent.ckpt")
    checkpoints.write({"state_dict": {}}, tmp_path / "weights.ckpt")
    with pytest.raises(CheckpointError, match="not of a run"):
        resume_run(tmp_path / "weights.ckpt")
    run = train(options, moment=80)
    for path in checkpoints.last(run.last_checkpoint().parent):
        path.write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"last\.ckpt is damaged"):
        resume_run(run.id, uri=store.uri)

"""The contract of every network of the registry: train, save, go on, predict, explain, export."""

import lightning.pytorch as pl
import pytest
import torch

from lit_imgproc.data.imagenet.datamodule import ImageFolder
from lit_imgproc.explain.cam import grad_cam
from lit_imgproc.models.classification.module import Classifier
from lit_imgproc.models.targets import Target
from lit_imgproc.optim import SGD, Cosine
from lit_imgproc.recipes import registry
from lit_imgproc.tracking.model import export

# Networks of the same code as one that is tested here, but deeper or wider: minutes and gigabytes
# that would find nothing new. Their parameters are counted in test_networks.py.
LARGER = {
    "alexnet": "vgg11 vgg13 vgg16 vgg19 vgg11_bn vgg13_bn vgg16_bn vgg19_bn",
    "resnet18": "resnet34 resnet50 resnet101 resnet152",
    "resnet20": "resnet32 resnet44 resnet56 resnet110",
    "efficientnet_lite0": "efficientnet_lite1 efficientnet_lite2 efficientnet_b1 efficientnet_b2 "
    "efficientnet_b3 efficientnet_b4 efficientnet_b5 efficientnet_b6 efficientnet_b7 "
    "efficientnetv2_s",
    "vit_ti_16": "vit_s_16 vit_b_16 vit_b_32 vit_l_16",
}
# Images are 32 px, and arguments those of the registry's defaults, but for these.
SIZES = {"alexnet": 64, "googlenet": 64, "inception_v3": 75}
ARGUMENTS = {
    "resnet18": {"stem": "cifar"},
    "inception_v3": {"auxiliary": False},  # its auxiliary head needs images of 299 px
    "test_vit": {"image_size": 32},
    "vit_ti_16": {"image_size": 32},
    "timm": {"model": "test_convnext"},
}
SKIPPED = {name for names in LARGER.values() for name in names.split()}
CLASSIFIERS = {k for k, path in registry.names("network").items() if ".classification." in path}
NAMES = sorted(CLASSIFIERS - SKIPPED)


def test_what_is_left_out_has_a_smaller_one_that_is_tested():
    assert CLASSIFIERS >= SKIPPED
    assert set(NAMES) >= set(LARGER)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy")
    ImageFolder.write_toy(folder)
    return folder


@pytest.fixture
def data(images, name):
    """Toy images of three classes, of a size that the network takes."""
    made = ImageFolder(
        root=str(images), image_size=SIZES.get(name, 32), batch_size=8, num_workers=0
    )
    made.prepare()
    return made


def classifier(name, data, seed=0):
    torch.manual_seed(seed)
    facts = data.facts()
    network = registry.resolve("network", name)(
        num_classes=3, in_channels=3, **ARGUMENTS.get(name, {})
    )
    return Classifier(
        network=network, num_classes=3, class_names=facts["class_names"], mean=facts["mean"],
        std=facts["std"], optimizer=SGD(lr=1e-3, momentum=0.0), schedule=Cosine(),
    )  # fmt: skip


def trainer(epochs, *callbacks):
    return pl.Trainer(
        accelerator="cpu", max_epochs=epochs, limit_train_batches=2, limit_val_batches=1,
        num_sanity_val_steps=0, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=list(callbacks),
    )  # fmt: skip


class Begin(pl.Callback):
    def on_train_start(self, trainer, pl_module):
        self.epoch, self.step = trainer.current_epoch, trainer.global_step
        self.state = {name: value.clone() for name, value in pl_module.state_dict().items()}


class Gradients(pl.Callback):
    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        network = pl_module.network
        assert [name for name, p in network.named_parameters() if p.grad is None] == []
        assert all(p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.filterwarnings("ignore:You have overridden `on_after_batch_transfer`")
@pytest.mark.parametrize("name", NAMES)
def test_contract(name, data, tmp_path):
    module = classifier(name, data)
    before = {key: value.clone() for key, value in module.network.state_dict().items()}

    # Every parameter takes part, those of auxiliary heads too, and two steps move the network.
    first = trainer(1, Gradients())
    first.fit(module, datamodule=data)
    assert first.global_step == 2
    assert any(not p.detach().equal(before[k]) for k, p in module.network.named_parameters())

    # A checkpoint brings the same network back, from plain data.
    file = tmp_path / "one.ckpt"
    first.save_checkpoint(file)
    saved = torch.load(file, weights_only=True)
    twin = classifier(name, data, seed=1)
    twin.load_state_dict(saved["state_dict"])
    batch = next(iter(data.val_dataloader()))
    inputs = module.on_after_batch_transfer(batch, 0)
    module.eval()
    twin.eval()
    with torch.no_grad():
        logits = module(inputs["image"])
        torch.testing.assert_close(twin(inputs["image"]), logits)
    assert logits.shape == (8, 3)
    assert logits.isfinite().all()

    # Training goes on where it was: second epoch, third step, the same state.
    begin = Begin()
    second = trainer(2, begin)
    resumed = classifier(name, data, seed=2)
    second.fit(resumed, datamodule=data, ckpt_path=file, weights_only=True)
    assert (begin.epoch, begin.step, second.global_step) == (1, 2, 4)
    for key, value in saved["state_dict"].items():
        assert begin.state[key].equal(value), key

    # Predictions are the softmax of the logits.
    answers = module.predict_step(inputs, 0)
    for answer, row in zip(answers, logits.softmax(1), strict=True):
        torch.testing.assert_close(torch.tensor(list(answer["probabilities"].values())), row)
        assert answer["label"] == module.class_names[int(row.argmax())]

    # A map for each image, of its size.
    maps = grad_cam(
        module.attribution_fn(Target(0)),
        inputs["image"],
        module.attribution_layer(),
        module.feature_map,
    )
    assert maps.shape == (8, *data.input_spec().size)
    assert maps.isfinite().all()
    assert maps.min() >= 0

    # What is exported answers the same, for a batch of another size than it was exported with.
    network = module.export_network()
    exported = export(network, data.input_spec()).module()
    with torch.no_grad():
        wanted = network(inputs["image"][:3])
        torch.testing.assert_close(exported(inputs["image"][:3]), wanted, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(wanted, logits[:3].softmax(1), rtol=1e-4, atol=1e-6)

"""Short names of what recipes can name, as text: importing this module imports nothing heavy."""

from collections.abc import Iterable
from functools import cache
from importlib import import_module
from typing import Any

from lit_imgproc.errors import UserError

_NETWORKS = "lit_imgproc.models.classification.networks"
_NETWORK_NAMES = """
    alexnet vgg11 vgg11_bn vgg13 vgg13_bn vgg16 vgg16_bn vgg19 vgg19_bn googlenet inception_v3
    resnet18 resnet34 resnet50 resnet101 resnet152 resnet20 resnet32 resnet44 resnet56 resnet110
    efficientnet_b0 efficientnet_b1 efficientnet_b2 efficientnet_b3 efficientnet_b4 efficientnet_b5
    efficientnet_b6 efficientnet_b7 efficientnetv2_s efficientnet_lite0 efficientnet_lite1
    efficientnet_lite2 vit_ti_16 vit_s_16 vit_b_16 vit_b_32 vit_l_16 timm
    test_resnet test_vit test_efficientnet convnet
"""
_DETECTION = "lit_imgproc.models.detection"
_DETECTOR_NAMES = "faster_rcnn mask_rcnn retinanet fcos"
_PUBLISHED_NAMES = """
    fasterrcnn_resnet50_fpn fasterrcnn_resnet50_fpn_v2 fasterrcnn_mobilenet_v3_large_fpn
    fasterrcnn_mobilenet_v3_large_320_fpn maskrcnn_resnet50_fpn maskrcnn_resnet50_fpn_v2
    retinanet_resnet50_fpn retinanet_resnet50_fpn_v2 fcos_resnet50_fpn ssd300_vgg16
    ssdlite320_mobilenet_v3_large
"""
_SEGMENTATION = "lit_imgproc.models.segmentation"
_SEGMENTER_NAMES = """
    unet unet_plus_plus deeplabv3_plus segformer fcn_resnet50 fcn_resnet101 deeplabv3_resnet50
    deeplabv3_resnet101 deeplabv3_mobilenet_v3_large
"""
_GAN = "lit_imgproc.models.gan"
_TRANSLATION = "lit_imgproc.models.translation"
_STYLE = "lit_imgproc.models.style_transfer"
_DATA = "lit_imgproc.data.imagenet.datamodule"
_SATELLITE = "lit_imgproc.data.satellite"
_COCO = "lit_imgproc.data.coco"
_MEDICAL = "lit_imgproc.data.medical"
_CALLBACKS = "lightning.pytorch.callbacks"

TABLES: dict[str, dict[str, str]] = {
    "module": {
        "classifier": "lit_imgproc.models.classification.module:Classifier",
        "detector": f"{_DETECTION}.module:Detector",
        "region_detector": f"{_DETECTION}.region_module:RegionDetector",
        "rcnn": f"{_DETECTION}.rcnn_module:RCNN",
        "segmenter": f"{_SEGMENTATION}.module:Segmenter",
        "instance_segmenter": f"{_SEGMENTATION}.instance_module:InstanceSegmenter",
        "gan": f"{_GAN}.module:GAN",
        "stylegan2": f"{_GAN}.stylegan2_module:StyleGAN2",
        "pix2pix": f"{_TRANSLATION}.pix2pix:Pix2Pix",
        "cyclegan": f"{_TRANSLATION}.cyclegan:CycleGAN",
        "style_transfer": f"{_STYLE}.module:StyleTransfer",
        "adain": f"{_STYLE}.module:AdaIN",
    },
    "network": {
        **{name: f"{_NETWORKS}:{name}" for name in _NETWORK_NAMES.split()},
        **{name: f"{_DETECTION}.networks:{name}" for name in _DETECTOR_NAMES.split()},
        **{name: f"{_DETECTION}.published:{name}" for name in _PUBLISHED_NAMES.split()},
        "fast_rcnn": f"{_DETECTION}.fast_rcnn:FastRCNN",
        "rcnn": f"{_DETECTION}.rcnn:RegionCNN",
        **{name: f"{_SEGMENTATION}.networks:{name}" for name in _SEGMENTER_NAMES.split()},
        **{name: f"{_SEGMENTATION}.fcn:{name}" for name in ("fcn32s", "fcn16s", "fcn8s")},
        "unet_2015": f"{_SEGMENTATION}.unet_2015:unet_2015",
        "unet_3d": f"{_SEGMENTATION}.volumetric:unet_3d",
        "basic_unet_3d": f"{_SEGMENTATION}.volumetric:basic_unet_3d",
        "dcgan_generator": f"{_GAN}.networks:DCGANGenerator",
        "dcgan_discriminator": f"{_GAN}.networks:DCGANDiscriminator",
        "stylegan2_generator": f"{_GAN}.stylegan2:stylegan2_generator",
        "stylegan2_discriminator": f"{_GAN}.stylegan2:stylegan2_discriminator",
        "unet_generator": f"{_TRANSLATION}.networks:unet_generator",
        "resnet_generator": f"{_TRANSLATION}.networks:resnet_generator",
        "patch_discriminator": f"{_TRANSLATION}.networks:patch_discriminator",
        "johnson": f"{_STYLE}.networks:johnson",
        "adain_decoder": f"{_STYLE}.networks:adain_decoder",
    },
    "datamodule": {
        "image_folder": f"{_DATA}:ImageFolder",
        "fashion_mnist": f"{_DATA}:FashionMNIST",
        "mnist": f"{_DATA}:MNIST",
        "cifar10": f"{_DATA}:CIFAR10",
        "digits": f"{_DATA}:Digits",
        "sharded_images": "lit_imgproc.data.imagenet.sharded:ShardedImages",
        "coco": f"{_COCO}.coco_json:CocoData",
        "voc": f"{_COCO}.voc:VocData",
        "yolo": f"{_COCO}.yolo:YoloData",
        "box_table": f"{_COCO}.box_table:BoxTable",
        "label_images": f"{_COCO}.label_images:LabelImages",
        "mask_images": f"{_COCO}.mask_images:MaskImages",
        "medmnist": f"{_MEDICAL}.medmnist:MedMNIST",
        "medmnist_3d": f"{_MEDICAL}.medmnist:MedMNIST3D",
        "medical_images": f"{_MEDICAL}.images:MedicalImages",
        "medical_slices": f"{_MEDICAL}.slices:MedicalSlices",
        "medical_volumes": f"{_MEDICAL}.volumes:MedicalVolumes",
        "isbi_2012": f"{_MEDICAL}.isbi:ISBI2012",
        "nuclei_crops": f"{_MEDICAL}.nuclei:NucleiCrops",
        "scene_folder": f"{_SATELLITE}.scenes:SceneFolder",
        "hyperspectral_scenes": f"{_SATELLITE}.scenes:HyperspectralScenes",
        "eurosat": f"{_SATELLITE}.eurosat:EuroSAT",
        "raster_tiles": f"{_SATELLITE}.segmentation:RasterTiles",
        "raster_boxes": f"{_SATELLITE}.detection:RasterBoxes",
        "paired_images": "lit_imgproc.data.pairs.paired:PairedImages",
        "unpaired_images": "lit_imgproc.data.pairs.unpaired:UnpairedImages",
    },
    "optimizer": {
        "sgd": "lit_imgproc.optim:SGD",
        "adam": "lit_imgproc.optim:Adam",
        "adamw": "lit_imgproc.optim:AdamW",
        "rmsprop": "lit_imgproc.optim:RMSprop",
    },
    "schedule": {
        "cosine": "lit_imgproc.optim:Cosine",
        "poly": "lit_imgproc.optim:Poly",
        "linear": "lit_imgproc.optim:Linear",
        "one_cycle": "lit_imgproc.optim:OneCycle",
        "step": "lit_imgproc.optim:Step",
        "constant": "lit_imgproc.optim:Constant",
    },
    "callback": {
        "checkpoint": "lit_imgproc.callbacks.checkpoint:Checkpoint",
        "ema": "lit_imgproc.callbacks.ema:EMA",
        "explain": "lit_imgproc.callbacks.explain:Explain",
        "nonfinite": "lit_imgproc.callbacks.nonfinite:NonFinite",
        "predictions": "lit_imgproc.callbacks.predictions:Predictions",
        "throughput": "lit_imgproc.callbacks.throughput:Throughput",
        "unfreeze": "lit_imgproc.callbacks.unfreeze:GradualUnfreeze",
        "early_stopping": f"{_CALLBACKS}:EarlyStopping",
        "lr_monitor": f"{_CALLBACKS}:LearningRateMonitor",
    },
    "strategy": {
        "ddp": "lightning.pytorch.strategies:DDPStrategy",
        "model_parallel": "lightning.pytorch.strategies:ModelParallelStrategy",
    },
}

# What each kind derives from, where it is defined: a parameter with such an annotation takes a
# block of that kind. Compared as text with the ancestors of a class, so nothing is imported.
# A LightningModule is a torch Module too: the nearest ancestor decides.
KINDS = {
    "lightning.pytorch.core.module:LightningModule": "module",
    "torch.nn.modules.module:Module": "network",
    "lightning.pytorch.core.datamodule:LightningDataModule": "datamodule",
    "lit_imgproc.optim:Optimizer": "optimizer",
    "lit_imgproc.optim:Schedule": "schedule",
    "lightning.pytorch.callbacks.callback:Callback": "callback",
    "lightning.pytorch.strategies.strategy:Strategy": "strategy",
}


def kind_of(cls: Any) -> str | None:
    """The kind of a class, None where it is of none."""
    for ancestor in getattr(cls, "__mro__", ()):
        if kind := KINDS.get(f"{ancestor.__module__}:{ancestor.__qualname__}"):
            return kind
    return None


@cache
def names(kind: str) -> dict[str, str]:
    """Short name -> ``"package.module:Object"``, with what other packages add.

    A package adds its own by an entry point in the group of the kind: ``lit_imgproc.networks``,
    ``lit_imgproc.strategies``, ….
    """
    from importlib.metadata import entry_points

    plural = f"{kind[:-1]}ies" if kind.endswith("y") else f"{kind}s"
    added = {point.name: point.value for point in entry_points(group=f"lit_imgproc.{plural}")}
    return added | TABLES[kind]


def resolve(kind: str, name: str) -> Any:
    """Import what ``name`` stands for: a short name, or a ``"package.module:Class"`` path.

    Raises:
        UserError: where the name is unknown, cannot be imported or is of another kind.
    """
    path = names(kind).get(name, name)
    module_name, colon, attribute = path.partition(":")
    if not colon:
        known = names(kind)
        raise UserError(
            f"no {kind} has this name{suggest(name, known) or ';'} allowed: {', '.join(known)},"
            f' or a "package.module:Class" path'
        )
    try:
        module = import_module(module_name)
    except ImportError as error:
        raise UserError(f"{module_name} cannot be imported: {error}") from error
    target = getattr(module, attribute, None)
    if not callable(target):
        raise UserError(f"{module_name} has no {attribute}{suggest(attribute, vars(module))}")
    if isinstance(target, type) and kind_of(target) != kind:
        raise UserError(f"{path} is not a {kind}")
    return target


def suggest(word: str, known: Iterable[Any]) -> str:
    """``"; did you mean x?"``, or nothing where no known word is near."""
    from difflib import get_close_matches

    near = get_close_matches(word, map(str, known), n=2)
    return f"; did you mean {' or '.join(near)}?" if near else ""

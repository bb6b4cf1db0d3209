"""mixup and CutMix, on the device, in the training step."""

import torch
from torch import Tensor, nn
from torchvision.transforms import v2


class Mixing(nn.Module):
    """Mixes each image of a batch with another one, and their labels alike.

    Each batch is mixed by one of the two, drawn anew where both are on: mixup
    (https://arxiv.org/abs/1710.09412) with a share drawn from Beta(alpha, alpha), or CutMix
    (https://arxiv.org/abs/1905.04899), whose label is the exact share of pixels that were kept.
    All draws are torch's, on the CPU.

    Args:
        mixup_alpha: of mixup's Beta distribution; 0 is off.
        cutmix_alpha: of CutMix's; 0 is off.
        num_classes: K.
        probability: of a batch to be mixed at all.
    """

    def __init__(
        self,
        mixup_alpha: float,
        cutmix_alpha: float,
        num_classes: int,
        probability: float = 1.0,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.probability = probability
        self.transforms = nn.ModuleList()
        if mixup_alpha > 0:
            self.transforms.append(v2.MixUp(alpha=mixup_alpha, num_classes=num_classes))
        if cutmix_alpha > 0:
            self.transforms.append(v2.CutMix(alpha=cutmix_alpha, num_classes=num_classes))

    def forward(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """Mix a batch.

        Args:
            image: float ``[B, C, H, W]``.
            label: int64 ``[B]``, or float ``[B, K]`` of soft or multi-hot labels.

        Returns:
            Images of the same shape, and labels float ``[B, K]``.
        """
        if not len(self.transforms) or torch.rand(()) >= self.probability:
            soft = label if label.ndim == 2 else nn.functional.one_hot(label, self.num_classes)
            return image, soft.float()
        chosen = int(torch.randint(len(self.transforms), ()))
        mixed, soft = self.transforms[chosen](image, label)
        return mixed, soft

"""Images that were made a while ago, for the discriminators of CycleGAN to judge again."""

from collections.abc import Sequence

import torch
from torch import Tensor


class ImagePool:
    """Gives back, once it is full, an older image in place of a new one half of the time.

    The discriminator so does not forget what the generator made before (arXiv 1612.07828, section
    2.3). Random numbers are drawn from torch's global generator on the CPU.

    Args:
        size: how many images it holds; 0 gives back what it is given.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.images: list[Tensor] = []

    def exchange(self, images: Tensor) -> Tensor:
        """Put images ``[B, C, H, W]`` in and take as many out.

        Until the pool is full, they are those that were put in. Then each is given back with
        probability 1/2 and is not kept; or else it takes the place of one of the pool, which is
        given back.
        """
        given = []
        for image in images.detach():
            if len(self.images) < self.size:
                self.images.append(image)
            elif self.size and torch.rand(()) < 0.5:
                place = int(torch.randint(self.size, ()))
                # After a resume those of the pool are on the CPU.
                self.images[place], image = image, self.images[place].to(image.device)
            given.append(image)
        return torch.stack(given)

    def state(self) -> list[list[Tensor]]:
        """The images of the pools of all ranks, on the CPU, rank by rank.

        All ranks have to call it.
        """
        own = [image.cpu() for image in self.images]
        if not torch.distributed.is_initialized():
            return [own]
        everyone: list[list[Tensor]] = [[] for _ in range(torch.distributed.get_world_size())]
        torch.distributed.all_gather_object(everyone, own)
        return everyone

    def load(self, state: Sequence[Sequence[Tensor]]) -> None:
        """Take up this rank's part of a :meth:`state`.

        Where it is of another number of ranks, all its images are dealt to the ranks in turn, and
        what is more than a pool holds is left out.
        """
        rank, ranks = 0, 1
        if torch.distributed.is_initialized():
            rank, ranks = torch.distributed.get_rank(), torch.distributed.get_world_size()
        if len(state) == ranks:
            own = list(state[rank])
        else:
            own = [image for images in state for image in images][rank::ranks]
        self.images = own[: self.size]

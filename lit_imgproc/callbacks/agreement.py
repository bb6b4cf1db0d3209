"""What one rank wants, known to all ranks at the same batch."""

from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import distributed


class Agreement:
    """Asks all ranks at every batch, and hears the answer a batch later.

    So nobody waits: the messages travel while the next batch is computed. They are small tensors
    on the CPU, in a process group of their own, whatever the training uses.
    """

    def __init__(self) -> None:
        self._group: Any = None
        self._asked: tuple[distributed.Work, torch.Tensor] | None = None

    def begin(self, trainer: Trainer) -> None:
        """Get ready; on all ranks together."""
        self._asked = None
        if trainer.world_size > 1 and self._group is None:
            self._group = distributed.new_group(backend="gloo")

    def most(self, wish: int) -> int:
        """The greatest wish that any rank had a batch ago; the wish itself where there is one rank.

        All ranks must ask equally often.
        """
        if self._group is None:
            return wish
        answer = 0
        if self._asked is not None:
            work, asked = self._asked
            work.wait()
            answer = int(asked)
        asked = torch.tensor(wish)
        work = distributed.all_reduce(
            asked, distributed.ReduceOp.MAX, group=self._group, async_op=True
        )
        self._asked = work, asked
        return answer

    def any(self, wish: bool) -> bool:
        """Whether any rank wished for it a batch ago."""
        return bool(self.most(int(wish)))

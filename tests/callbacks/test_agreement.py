"""Two processes that agree: what one wishes, both know at the same call."""

import json
import subprocess
import sys

from lightning.pytorch import Trainer

from lit_imgproc.callbacks.agreement import Agreement

SCRIPT = """
import json, os, sys
from types import SimpleNamespace
from torch import distributed
from lit_imgproc.callbacks.agreement import Agreement
from lit_imgproc.worker import leave
distributed.init_process_group("gloo")
rank = distributed.get_rank()
agreement = Agreement()
agreement.begin(SimpleNamespace(world_size=2))
wishes = [0, 15 if rank == 1 else 0, 0, 2 if rank == 0 else 9, 0, 0]
heard = [agreement.most(wish) for wish in wishes]
with open(f"{sys.argv[1]}/{rank}", "w") as file:
    json.dump(heard, file)
leave(0)
"""


def test_two_ranks_hear_the_greatest_wish_one_call_later(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    subprocess.run([sys.executable, *torchrun, str(script), str(tmp_path)], check=True)
    expected = [0, 0, 15, 0, 9, 0]
    assert [json.loads((tmp_path / str(rank)).read_text()) for rank in (0, 1)] == [expected] * 2


def test_one_rank_hears_itself_at_once():
    agreement = Agreement()
    agreement.begin(Trainer(accelerator="cpu", logger=False, enable_checkpointing=False))
    assert [agreement.most(wish) for wish in (0, 15, 0)] == [0, 15, 0]
    assert [agreement.any(wish) for wish in (False, True)] == [False, True]

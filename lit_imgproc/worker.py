"""What every rank runs, however it was launched.

``torchrun --nproc-per-node=4 -m lit_imgproc.worker frozen.yaml`` trains on four ranks, on one node
or on many; so does ``srun`` with one task a rank. ``lit-imgproc check RECIPE --frozen frozen.yaml``
writes the frozen recipe, whose ``trainer.devices`` and ``trainer.num_nodes`` say how many.
"""

import argparse
import atexit
import json
import os
import sys
from pathlib import Path
from typing import NoReturn

from lit_imgproc.errors import UserError
from lit_imgproc.recipes.experiment import Origin, load_recipe


def main() -> None:
    """Train as one rank; rank 0 writes the id of the run to ``--result`` as soon as it has one."""
    parser = argparse.ArgumentParser(prog="python -m lit_imgproc.worker", description=__doc__)
    parser.add_argument("recipe", type=Path, help="a frozen recipe")
    parser.add_argument("--result", type=Path, help="where to write the run's id, as JSON")
    parser.add_argument("--origin", help="what to record as source and command, as JSON")
    arguments = parser.parse_args()
    try:
        experiment = load_recipe(arguments.recipe)
        if arguments.origin:
            note = json.loads(arguments.origin)
            experiment.origin = Origin(Path(note["source"]), note["command"])
        experiment.run_here(announce=arguments.result)
    except UserError as error:
        if int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0"))) == 0:
            print(error, file=sys.stderr)
        raise SystemExit(2) from None


def leave(code: int) -> NoReturn:
    """End the process as an exit does, except for taking the interpreter down.

    Threads of gloo let go of the last tensors whenever they come to it. One that comes to it while
    the interpreter goes down aborts the process, and a finished training counts as failed
    (pytorch issue 190489). Destroying the process group does not end these threads.
    """
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    code = 1
    try:
        main()
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    leave(code)

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
import traceback
from pathlib import Path
from typing import NoReturn

from lit_imgproc.errors import TrainingFailed, UserError
from lit_imgproc.recipes.experiment import Origin, load_recipe
from lit_imgproc.recipes.resume import resumption
from lit_imgproc.signals import Interrupted

RANK = int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")))


def main() -> None:
    """Train as one rank; rank 0 writes the id of the run to ``--result`` as soon as it has one."""
    parser = argparse.ArgumentParser(prog="python -m lit_imgproc.worker", description=__doc__)
    parser.add_argument("recipe", type=Path, help="a frozen recipe")
    parser.add_argument("--result", type=Path, help="where to write the run's id, as JSON")
    parser.add_argument("--origin", help="what to record as source and command, as JSON")
    parser.add_argument("--resume", help="go on with this run, or from this checkpoint file")
    arguments = parser.parse_args()
    try:
        experiment = load_recipe(arguments.recipe)
        if arguments.origin:
            note = json.loads(arguments.origin)
            experiment.origin = Origin(Path(note["source"]), note["command"], note["digest"])
        if arguments.resume:
            experiment.resume(resumption(arguments.resume, experiment.store))
        experiment.run_here(announce=arguments.result)
    except BaseException as error:
        if arguments.result:
            _report(arguments.result, error)
        if isinstance(error, UserError | TrainingFailed):
            if RANK == 0:
                print(error, file=sys.stderr)
            raise SystemExit(2 if isinstance(error, UserError) else 1) from None
        raise


def _report(result: Path, error: BaseException) -> None:
    """Tell the process that started the ranks how this one ended."""
    if isinstance(error, Exception):
        note = f"rank {RANK}\n{traceback.format_exc()}"
        result.with_name(f"traceback-{RANK}.txt").write_text(note)
    if RANK == 0 and result.exists():
        code = error.code if isinstance(error, Interrupted) else 1
        code = 2 if isinstance(error, UserError) else code
        result.write_text(json.dumps(json.loads(result.read_text()) | {"code": code}))


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
    code: int | str | None = 0
    try:
        main()
    except SystemExit as error:
        code = error.code
    except KeyboardInterrupt:
        code = 130
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    leave(code if isinstance(code, int) else int(code is not None))

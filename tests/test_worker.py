"""The end of a rank: what an exit does is done, and no thread can turn it into a failure."""

import subprocess
import sys

import pytest

SCRIPT = """
import atexit, sys
from lit_imgproc.worker import leave
atexit.register(print, "handlers ran")
print("said", end=" ")
print("warned", end=" ", file=sys.stderr)
class Late:
    def __del__(self):
        print("torn down", flush=True)
late = Late()
leave({code})
"""


@pytest.mark.parametrize("code", [0, 3])
def test_a_rank_leaves_with_its_code_and_without_tearing_the_interpreter_down(code):
    script = SCRIPT.format(code=code)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == code
    assert done.stdout == "said handlers ran\n"
    assert done.stderr == "warned "

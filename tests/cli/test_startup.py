import subprocess
import sys

import pytest

CODE = """
import sys
from lit_imgproc.cli import main
try:
    main()
except SystemExit as ending:
    assert not ending.code, ending.code
heavy = ("torch", "torchvision", "lightning", "mlflow", "numpy", "cv2", "timm", "albumentations")
print("heavy:", [name for name in heavy if name in sys.modules])
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["list"],
        ["show", "quickstart"],
        ["show", "quickstart", "tracking.run_name=${model.name}"],  # OmegaConf is needed here
        ["show", "--help"],
        ["check", "--help"],
        ["schema", "--help"],
        ["doctor", "--help"],
    ],
)
def test_text_verbs_import_nothing_heavy(arguments):
    done = subprocess.run(
        [sys.executable, "-c", CODE, *arguments], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "heavy: []"

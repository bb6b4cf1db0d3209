"""The package as others get it: a light import, and a wheel with recipes and console script."""

import configparser
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import lit_imgproc

ROOT = Path(__file__).resolve().parent.parent
KEPT = ("lit_imgproc", "experiments", "pyproject.toml", "README.md", "LICENSE")


def test_importing_the_package_imports_nothing_heavy():
    heavy = ("torch", "lightning", "mlflow", "numpy", "cv2", "albumentations", "pydantic")
    code = f"import sys, lit_imgproc; print([n for n in {heavy} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_entry_points_of_python_are_there_and_others_are_an_error():
    assert callable(lit_imgproc.load_recipe)
    assert callable(lit_imgproc.load_run)
    with pytest.raises(AttributeError, match="has no attribute 'load_model'"):
        _ = lit_imgproc.load_model


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of a copy of the checkout, so that nothing is built in it."""
    copy = tmp_path_factory.mktemp("wheel") / "copy"
    copy.mkdir()
    for name in KEPT:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, copy / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, copy / name)
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", "dist"]
    subprocess.run(command, cwd=copy, check=True, capture_output=True)
    (built,) = (copy / "dist").glob("*.whl")
    return built


def test_the_wheel_holds_every_module_and_every_recipe(wheel):
    assert wheel.name == f"lit_imgproc-{lit_imgproc.__version__}-py3-none-any.whl"
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder, inside in (
        ("lit_imgproc", "lit_imgproc"),
        ("experiments", "lit_imgproc/experiments"),
    ):
        files = [p for p in (ROOT / folder).rglob("*") if p.suffix in (".py", ".yaml")]
        assert files
        assert {f"{inside}/{path.relative_to(ROOT / folder)}" for path in files} <= names
    assert not {name for name in names if name.startswith(("tests", "docs", "mlruns"))}


def test_the_wheel_declares_the_console_script(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (path,) = (name for name in archive.namelist() if name.endswith("/entry_points.txt"))
        points = configparser.ConfigParser()
        points.read_string(archive.read(path).decode())
    assert points["console_scripts"]["lit-imgproc"] == "lit_imgproc.cli:main"


def test_recipes_are_found_where_only_the_wheel_is(wheel, tmp_path):
    """Unpacked in an empty place, as pip would, with no checkout around it."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    code = (
        "import sys; sys.path.insert(0, 'site')\n"
        "import lit_imgproc\n"
        "from lit_imgproc.recipes import catalog, compose\n"
        "print(lit_imgproc.__file__)\n"
        "print(*sorted(catalog.names()))\n"
        "print(compose.compose('quickstart').values['model']['network']['name'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    place, recipes, network = done.stdout.splitlines()
    assert Path(place).is_relative_to(tmp_path)
    files = (ROOT / "experiments").rglob("*.yaml")
    wanted = {path.relative_to(ROOT / "experiments").with_suffix("").as_posix() for path in files}
    assert set(recipes.split()) == {name for name in wanted if not name.startswith("base/")}
    assert network == "convnet"

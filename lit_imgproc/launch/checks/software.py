"""Python, the packages and what is known to go wrong with them."""

import importlib.metadata
import platform
import shutil
import subprocess
from collections.abc import Iterable, Iterator

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from lit_imgproc.launch.checks import Check, Status

NAME = "lit_imgproc"
OPENCV = (
    "opencv-python-headless",
    "opencv-python",
    "opencv-contrib-python-headless",
    "opencv-contrib-python",
)


def python() -> Iterator[Check]:
    """The interpreter against ``requires-python``."""
    version, allowed = (
        platform.python_version(),
        importlib.metadata.metadata(NAME)["Requires-Python"],
    )
    if SpecifierSet(allowed).contains(version, prereleases=True):
        yield Check("python", "ok", f"{version}, {platform.platform()}")
    else:
        advice = f"make the environment with Python {allowed}"
        yield Check("python", "problem", f"{version}, and {allowed} is needed", advice)


def packages() -> Iterator[Check]:
    """What is installed against what the package asks for."""
    wanted = list(_requirements())
    missing, other = _amiss(wanted)
    if missing or other:
        asked = " ".join(f"'{r}'" for r in wanted if r.name in (*missing, *other))
        found = [f"{name} is missing" for name in missing]
        found += [f"{name} is {version}" for name, version in other.items()]
        status: Status = "problem" if missing else "warning"
        yield Check("packages", status, ", ".join(found), f"pip install {asked}")
    else:
        named = [
            f"{name} {importlib.metadata.version(name)}"
            for name in ("torch", "lightning", "mlflow")
        ]
        rest = len(wanted) - len(named)
        found_all = f"{', '.join(named)} and {rest} others, as they are asked for"
        yield Check("packages", "ok", found_all)


def extras() -> Iterator[Check]:
    """Which extras are complete."""
    for extra in importlib.metadata.metadata(NAME).get_all("Provides-Extra") or []:
        missing, other = _amiss(_requirements(extra))
        if missing or other:
            lacks = f"not complete: {', '.join([*missing, *other])}"
            yield Check(f"extra {extra}", "ok", lacks, f"for it: pip install '{NAME}[{extra}]'")
        else:
            yield Check(f"extra {extra}", "ok", "complete")


def opencv() -> Iterator[Check]:
    """OpenCV comes in four packages that overwrite each other."""
    there = [name for name in OPENCV if _version(name)]
    mend = "pip install --force-reinstall --no-deps opencv-python-headless"
    if len(there) > 1:
        surplus = " ".join(name for name in there if name != "opencv-python-headless")
        found = f"{' and '.join(there)} share one folder, and removing one breaks the other"
        yield Check("opencv", "warning", found, f"pip uninstall {surplus} && {mend}")
        return
    try:
        import cv2
    except ImportError as error:
        yield Check("opencv", "problem", f"cannot be imported: {error}", mend)
    else:
        yield Check("opencv", "ok", f"{cv2.__version__} of {', '.join(there) or 'elsewhere'}")


def git() -> Iterator[Check]:
    """Git, which tells a run's record the code that it ran."""
    if shutil.which("git") is None:
        found = "is not installed: the record of a run will not say which code it ran"
        yield Check("git", "warning", found, "install git")
        return
    said = subprocess.run(["git", "--version"], capture_output=True, text=True, check=True)
    yield Check("git", "ok", said.stdout.strip().removeprefix("git version "))


def _requirements(extra: str = "") -> Iterator[Requirement]:
    """What the core needs; or, with an extra, what that needs in addition."""
    for text in importlib.metadata.requires(NAME) or []:
        one = Requirement(text)
        in_core = one.marker is None or one.marker.evaluate({"extra": ""})
        if extra and not in_core and one.marker and one.marker.evaluate({"extra": extra}):
            own = canonicalize_name(one.name) == canonicalize_name(NAME)
            yield from (r for e in one.extras for r in _requirements(e)) if own else [one]
        elif not extra and in_core:
            yield one


def _amiss(wanted: Iterable[Requirement]) -> tuple[list[str], dict[str, str]]:
    """What is missing, and what is there in another version than was asked for."""
    missing, other = [], {}
    for one in wanted:
        version = _version(one.name)
        if version is None:
            missing.append(one.name)
        elif not one.specifier.contains(version, prereleases=True):
            other[one.name] = version
    return missing, other


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None

"""``lit-imgproc doctor``."""

import json
from dataclasses import asdict

import typer

from lit_imgproc.cli.arguments import AsJson, Uri


def doctor(uri: Uri = None, as_json: AsJson = False) -> None:
    """Look at versions, devices, the store and disks, and say what to do. Exit code 1: a problem.

    Example: lit-imgproc doctor --uri http://tracking:5000
    """
    from lit_imgproc.launch.doctor import examine

    checks = examine(uri)
    for check in checks:
        advice = f" -> {check.advice}" if check.advice else ""
        print(f"{check.status:8} {check.name}: {check.found}{advice}")
    sound = all(check.status != "problem" for check in checks)
    if as_json:
        print(json.dumps({"ok": sound, "checks": [asdict(check) for check in checks]}))
    if not sound:
        raise typer.Exit(1)

"""``lit-imgproc test``."""

import json

from lit_imgproc.cli.arguments import AsJson, RunId, Uri


def test(run: RunId, uri: Uri = None, as_json: AsJson = False) -> None:
    """Test the best state of a run again, on its test split.

    Example: lit-imgproc test ab12 --json
    """
    from lit_imgproc.recipes.run import load_run

    found = load_run(run, uri=uri)
    metrics = found.test()
    for name, value in metrics.items():
        print(f"{name} {value:.4f}")
    if as_json:
        print(json.dumps({"run_id": found.id, "status": found.status, "metrics": metrics}))

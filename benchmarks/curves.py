"""How runs went, side by side: a metric of the validation by step and by minute of training.

    lit-imgproc train segmentation/unet_nuclei; lit-imgproc train segmentation/unet_2015_nuclei
    python benchmarks/curves.py RUN RUN --metric val/dice --metric val/mask_matching_50
    python benchmarks/curves.py RUN RUN --metric val/dice --figure curves.png

Minutes count from the start of the run, on whatever else the machine did then.
"""

import argparse

from mlflow import MlflowClient

from lit_imgproc import load_run


def curve(run, metric):
    """Minutes since the run began, and values."""
    history = MlflowClient(run.uri).get_metric_history(run.id, metric)
    begun = run.record.info.start_time
    points = sorted({(one.step, one.timestamp, one.value) for one in history})
    return [(step, (timestamp - begun) / 60_000, value) for step, timestamp, value in points]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", help="run ids, or their first characters")
    parser.add_argument("--metric", action="append", required=True)
    parser.add_argument("--figure", help="write a picture of the curves to this file")
    options = parser.parse_args()
    runs = {}
    for given in options.runs:
        run = load_run(given)
        runs[f"{run.record.info.run_name} ({run.id[:8]})"] = run
    curves = {
        metric: {n: curve(run, metric) for n, run in runs.items()} for metric in options.metric
    }
    for metric, by_run in curves.items():
        for name, points in by_run.items():
            said = "  ".join(f"{minutes:.0f} min {value:.3f}" for _, minutes, value in points)
            print(f"{metric:24} {name}: {said}")
    if options.figure:
        from matplotlib.figure import Figure

        figure = Figure(figsize=(4.5 * len(curves), 3.5), layout="constrained")
        for axes, (metric, by_run) in zip(
            figure.subplots(1, len(curves), squeeze=False)[0], curves.items(), strict=True
        ):
            for name, points in by_run.items():
                axes.plot([m for _, m, _ in points], [v for _, _, v in points], ".-", label=name)
            axes.set_xlabel("minutes")
            axes.set_title(metric)
            axes.legend(fontsize=7)
        figure.savefig(options.figure, dpi=110)


if __name__ == "__main__":
    main()

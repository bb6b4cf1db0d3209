"""CPU time of the verbs that only read text, over that of ``python -c "import torch"``.

The target is an eighth. Run it on an idle machine:

    python benchmarks/startup.py
    python benchmarks/startup.py --json
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys

TARGET = 1 / 8
MAIN = "from lit_imgproc.cli import main; main()"
VERBS = {"--help": ["--help"], "list": ["list"], "show": ["show", "quickstart"]}


def cpu_seconds(*arguments: str) -> float:
    """User and system time of one Python process and its children."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def measure(repeats: int) -> dict[str, float]:
    """Medians in seconds. The commands take turns, so that a busy moment meets all of them."""
    commands = {"import torch": ["-c", "import torch"]}
    commands |= {verb: ["-c", MAIN, *arguments] for verb, arguments in VERBS.items()}
    for arguments in commands.values():
        cpu_seconds(*arguments)  # Bytecode and file caches, once for all.
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(repeats):
        for name, arguments in commands.items():
            times[name].append(cpu_seconds(*arguments))
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def main() -> None:
    """Measure, print, and end with 1 where the target is missed."""
    parser = argparse.ArgumentParser(description="CPU time of the text verbs over import torch.")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    options = parser.parse_args()
    seconds = measure(options.repeats)
    torch = seconds.pop("import torch")
    print(f"import torch  {torch:.3f} s of CPU")
    for verb, time in seconds.items():
        print(f"{verb:12}  {time:.3f} s of CPU, ratio {time / torch:.3f} (target {TARGET:.3f})")
    ratios = {verb: round(time / torch, 4) for verb, time in seconds.items()}
    if options.json:
        print(json.dumps({"import_torch_s": round(torch, 4), "ratios": ratios}))
    sys.exit(any(ratio > TARGET for ratio in ratios.values()))


if __name__ == "__main__":
    main()

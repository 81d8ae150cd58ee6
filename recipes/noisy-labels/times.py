"""Seconds that each artifact took, for all of its runs, as its manifest says, in markdown: python times.py OUT."""

import json
import sys
from pathlib import Path


def main() -> None:
    seconds: dict[str, dict[str, str]] = {}
    noises: dict[str, None] = {}
    for manifest in sorted(Path(sys.argv[1]).glob("heads-*-*/manifest.json")):
        _, noise, method = manifest.parent.name.split("-")
        made = json.loads(manifest.read_text())["made"]
        noises[noise] = None
        # only the last process's seconds are known of a run that was killed and went on
        seconds.setdefault(method, {})[noise] = f"{made['seconds']:.0f}" + (" (resumed)" if made["resumed"] else "")
    print("| seconds | " + " | ".join(noises) + " |\n|---|" + "---:|" * len(noises))
    for method, by_noise in seconds.items():
        print(f"| {method} | " + " | ".join(by_noise.get(noise, "–") for noise in noises) + " |")


if __name__ == "__main__":
    main()

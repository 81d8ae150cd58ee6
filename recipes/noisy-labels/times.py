"""Seconds that each artifact took, for all of its runs, as its manifest says: python times.py ARTIFACT…"""

import json
import sys
from pathlib import Path


def main() -> None:
    for place in sys.argv[1:]:
        manifest = json.loads((Path(place) / "manifest.json").read_text())
        made = manifest["made"]
        resumed = f" (the last of {made['resumed'] + 1} goes)" if made["resumed"] else ""
        print(f"{Path(place).name:28} {made['seconds']:9.1f} s{resumed}")


if __name__ == "__main__":
    main()

"""Lay out the images of this recipe: python prepare.py SHARED OUT

SHARED is the folder of test data (its own prepare.py unpacks it); OUT gets cifar100.npz with the first 20,000 training
and 2,000 test rows (class-balanced), and cifar10.npz.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np


def main() -> None:
    shared, out = Path(sys.argv[1]), Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    subprocess.run([sys.executable, str(shared / "prepare.py"), str(out / "all"), "cifar100", "cifar10"], check=True)
    whole = np.load(out / "all" / "cifar100.npz")
    small = {
        f"{kind}_{split}": whole[f"{kind}_{split}"][:rows]
        for split, rows in (("train", 20_000), ("test", 2_000))
        for kind in "Xy"
    }
    np.savez(out / "cifar100.npz", **small, classes=whole["classes"])
    (out / "all" / "cifar10.npz").rename(out / "cifar10.npz")
    print(f"20,000 + 2,000 images of CIFAR-100 and 6,000 + 2,000 of CIFAR-10 in {out}")


if __name__ == "__main__":
    main()

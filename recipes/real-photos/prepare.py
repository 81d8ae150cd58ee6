"""Lay out the real photographs of this recipe: python prepare.py SHARED OUT [TRAIN_ROWS TEST_ROWS]

SHARED is the folder of test data (its own prepare.py unpacks it); OUT gets pacs/DOMAIN/{train,test}/CLASS/*.jpg and
cifar100.npz with the first TRAIN_ROWS and TEST_ROWS rows, which are class-balanced.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np


def main() -> None:
    shared, out = Path(sys.argv[1]), Path(sys.argv[2])
    train, test = (int(n) for n in sys.argv[3:5]) if len(sys.argv) > 3 else (10_000, 2_000)
    out.mkdir(parents=True, exist_ok=True)
    subprocess.run([sys.executable, str(shared / "prepare.py"), str(out / "all"), "cifar100", "pacs"], check=True)
    whole = np.load(out / "all" / "cifar100.npz")
    np.savez(
        out / "cifar100.npz",
        X_train=whole["X_train"][:train],
        y_train=whole["y_train"][:train],
        X_test=whole["X_test"][:test],
        y_test=whole["y_test"][:test],
        classes=whole["classes"],
    )
    (out / "all" / "pacs").rename(out / "pacs")
    print(f"{train} + {test} images of CIFAR-100 and three PACS domains in {out}")


if __name__ == "__main__":
    main()

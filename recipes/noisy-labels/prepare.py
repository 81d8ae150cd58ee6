"""Lay out the images and the human labels of this recipe: python prepare.py SHARED OUT [TRAIN_ROWS TEST_ROWS]

SHARED is the folder of test data (its own prepare.py unpacks it). OUT gets cifar100.npz (the first TRAIN_ROWS and
TEST_ROWS rows, class-balanced), cifar10.npz (6,000 and 2,000 rows), cifar10n.npz (the human labels of those 6,000) and
cifar100n_transition.npy (how people confused the hundred classes).
"""

import subprocess
import sys
from pathlib import Path

import numpy as np


def main() -> None:
    shared, out = Path(sys.argv[1]), Path(sys.argv[2])
    train, test = (int(n) for n in sys.argv[3:5]) if len(sys.argv) > 3 else (20_000, 5_000)
    out.mkdir(parents=True, exist_ok=True)
    everything = out / "all"
    subprocess.run([sys.executable, str(shared / "prepare.py"), str(everything), "cifar100", "cifar10"], check=True)
    for name in ("cifar10.npz", "cifar10n.npz", "cifar100n_transition.npy"):
        (everything / name).replace(out / name)
    whole = np.load(everything / "cifar100.npz")
    np.savez(
        out / "cifar100.npz",
        X_train=whole["X_train"][:train],
        y_train=whole["y_train"][:train],
        X_test=whole["X_test"][:test],
        y_test=whole["y_test"][:test],
        classes=whole["classes"],
    )
    print(f"{train} + {test} images of CIFAR-100, 6,000 + 2,000 of CIFAR-10 with human labels, in {out}")


if __name__ == "__main__":
    main()

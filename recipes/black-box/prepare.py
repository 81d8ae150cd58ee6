"""Lay out the images of this recipe: python prepare.py SHARED OUT [TRAIN_ROWS TEST_ROWS]

SHARED is the folder of test data (its own prepare.py unpacks it). OUT gets cifar100.npz (the first TRAIN_ROWS and
TEST_ROWS rows, class-balanced); domains/DOMAIN/test/CLASS/*.jpg, all images of each PACS domain; and for each domain
without-DOMAIN/{train,test}/CLASS/*.jpg, those of the two others: what leaving one domain out trains and tests on.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np


def main() -> None:
    shared, out = Path(sys.argv[1]), Path(sys.argv[2])
    train, test = (int(n) for n in sys.argv[3:5]) if len(sys.argv) > 3 else (10_000, 5_000)
    out.mkdir(parents=True, exist_ok=True)
    everything = out / "all"
    subprocess.run([sys.executable, str(shared / "prepare.py"), str(everything), "cifar100", "pacs"], check=True)
    pacs = everything / "pacs"
    domains = sorted(folder.name for folder in pacs.iterdir() if folder.is_dir())
    for image in sorted(pacs.glob("*/*/*/*.jpg")):
        domain, split, label, name = image.relative_to(pacs).parts
        named = f"{domain}-{split}-{name}"
        copy(image, out / "domains" / domain / "test" / label / named)
        for left_out in domains:
            if left_out != domain:
                copy(image, out / f"without-{left_out}" / split / label / named)
    whole = np.load(everything / "cifar100.npz")
    np.savez(
        out / "cifar100.npz",
        X_train=whole["X_train"][:train],
        y_train=whole["y_train"][:train],
        X_test=whole["X_test"][:test],
        y_test=whole["y_test"][:test],
        classes=whole["classes"],
    )
    print(f"{train} + {test} images of CIFAR-100, and PACS without {', '.join(domains)} in turn, in {out}")


def copy(image: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(image, place)


if __name__ == "__main__":
    main()

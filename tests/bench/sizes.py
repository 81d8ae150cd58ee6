"""How much work each bench does; every field is a flag of ``python -m tests.bench``."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Sizes of all benches; the defaults take some five minutes on two idle cores.

    Attributes:
        rounds: times each contender is run, in turns.
        images, archs, image_size: extract; those after the first with a quarter of the images.
        store_mb: store, 10^6 bytes.
        memory_rows: memory.
        head_rows, head_dim, head_classes, head_epochs: heads; 50,000 rows and 30 epochs are a real table's size.
        head_rounds: heads, in place of ``rounds``: the plain loops are slow.
        grid_epochs: heads, the grid of 52 learning rates and decays; one epoch of that is much work already.
        step_dims, step_batches, step_seeds: step; so many seeds train as one stack, the plain loop one.
        table_dim, table_epochs: table14.
        spectrum_rows, spectrum_dim: spectrum.
        mixture_classes, mixture_rows: cleansing.
        cli_runs: cli.
        caption_pairs: labels.
        device: step and extract, cpu or cuda; others have their own.
        amp: none, bf16 or fp16: extract, mixed precision of both contenders; step, heads and table14, nmtool's.
    """

    rounds: int = 3
    images: int = 512
    archs: tuple[str, ...] = ("mobilenetv2_100", "resnet50")
    image_size: int = 224
    store_mb: int = 400
    memory_rows: int = 1_000_000
    head_rows: int = 20_000
    head_dim: int = 768
    head_classes: int = 100
    head_epochs: int = 10
    head_rounds: int = 2
    grid_epochs: int = 1
    step_dims: tuple[int, ...] = (768, 2048)
    step_batches: tuple[int, ...] = (64, 512)
    step_seeds: int = 1
    table_dim: int = 2048
    table_epochs: int = 30
    spectrum_rows: int = 50_000
    spectrum_dim: int = 768
    mixture_classes: int = 1000
    mixture_rows: int = 2400
    cli_runs: int = 5
    caption_pairs: int = 15_000_000
    device: str = "cpu"
    amp: str = "none"


QUICK = Sizes(
    rounds=2,
    images=128,
    store_mb=100,
    memory_rows=50_000,
    head_rows=4000,
    head_epochs=3,
    head_rounds=1,
    step_dims=(768,),
    spectrum_rows=44_000,  # just above what is decomposed exactly, so that the same code runs
    mixture_classes=80,
    cli_runs=3,
    caption_pairs=500_000,
)

"""Products by oneDNN: float32 all through, the setting taken back, and only where it is known to help."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from nmtool.encoders import device as room
from nmtool.encoders.device import products_by_onednn, short_sides_are_slow

CPU = torch.device("cpu")
AMD = {"cpu_name": "AMD EPYC", "avx512_f": True, "amx_tile": False}


@pytest.fixture(autouse=True)
def asked_anew() -> Iterator[None]:
    room._onednn_keeps_float32.cache_clear()
    yield
    room._onednn_keeps_float32.cache_clear()


needs_it = pytest.mark.skipif(
    room._precision() != "none" or not room._onednn_keeps_float32(), reason="not an AMD processor with AVX-512"
)


@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("sizes", [(64, 768, 3072), (768, 64, 3072), (64, 3072, 768), (5, 7, 3), (512, 512, 512)])
@pytest.mark.parametrize("turned", ["none", "left", "right"])
def test_products_are_those_of_float32(heads: int, sizes: tuple[int, int, int], turned: str) -> None:
    rows, inner, columns = sizes
    stream = torch.Generator().manual_seed(1)
    a, b = (torch.randn(heads, *s, generator=stream) for s in ((rows, inner), (inner, columns)))
    a = a.mT.contiguous().mT if turned == "left" else a
    b = b.mT.contiguous().mT if turned == "right" else b
    exact, size = a.double() @ b.double(), a.abs().double() @ b.abs().double()
    with products_by_onednn(CPU):
        found, added = torch.bmm(a, b), torch.baddbmm(torch.ones(heads, 1, columns), a, b)
    # rounding of float32: 2^-24 a sum, of some sqrt(inner) sums; bfloat16 would be off by 2^-9 a factor
    assert ((found - exact).abs() <= 2e-6 * size + 1e-30).all()
    assert ((added - 1 - exact).abs() <= 2e-6 * (size + 1)).all()


def test_bfloat16_is_no_float32_product() -> None:
    stream = torch.Generator().manual_seed(2)
    a, b = torch.rand(64, 256, generator=stream), torch.rand(256, 256, generator=stream)
    assert room._is_product(a @ b, a, b)
    assert not room._is_product((a.bfloat16() @ b.bfloat16()).float(), a, b)
    assert not room._is_product(a.bfloat16().float() @ b, a, b)  # summed in float32, factors rounded


@needs_it
def test_the_setting_is_taken_back() -> None:
    assert short_sides_are_slow(CPU)
    with products_by_onednn(CPU):
        assert not short_sides_are_slow(CPU)
        with products_by_onednn(CPU):
            pass
        assert not short_sides_are_slow(CPU)
    assert room._precision() == "none"
    with pytest.raises(KeyError), products_by_onednn(CPU):
        raise KeyError
    assert room._precision() == "none"
    assert torch.get_float32_matmul_precision() == "highest"


@needs_it
def test_own_settings_and_other_devices_stay() -> None:
    with products_by_onednn(torch.device("cuda")):
        assert room._precision() == "none"
    assert not short_sides_are_slow(torch.device("cuda"))
    assert room._onednn_keeps_float32()  # known before the other choice is made
    torch.backends.mkldnn.matmul.fp32_precision = "ieee"
    try:
        with products_by_onednn(CPU):
            assert room._precision() == "ieee"
    finally:
        torch.backends.mkldnn.matmul.fp32_precision = "none"


@pytest.mark.parametrize(
    "other",
    [
        {"cpu_name": "Intel(R) Xeon(R)"},
        {"avx512_f": False},
        {"amx_tile": True},  # there oneDNN would compute in bfloat16
        {"cpu_name": ""},
    ],
)
def test_only_processors_known_to_gain(other: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {**AMD, **other}, raising=False)
    assert not room._onednn_keeps_float32()
    with products_by_onednn(CPU):
        assert room._precision() == "none"


def test_an_older_torch_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert not room._onednn_keeps_float32()
    monkeypatch.undo()
    monkeypatch.setattr(torch.backends, "mkldnn", object())
    with products_by_onednn(CPU):
        assert short_sides_are_slow(CPU)

"""Which processors multiply in bfloat16, and who says what where they do not."""

from __future__ import annotations

import pytest
import torch

from jetfm.runtime import precision
from jetfm.runtime.precision import cpu_has_bfloat16, precision_on


@pytest.fixture(autouse=True)
def found_anew(monkeypatch):
    monkeypatch.setattr(precision, "_said", [])
    cpu_has_bfloat16.cache_clear()
    yield
    cpu_has_bfloat16.cache_clear()


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        (
            {"avx2": True, "avx512_f": False, "avx512_bf16": False, "amx_bf16": False},
            False,
        ),  # Zen 3
        ({"avx512_f": True, "avx512_vnni": True, "avx512_bf16": False, "amx_bf16": False}, False),
        ({"avx512_f": True, "avx512_bf16": True, "amx_bf16": False}, True),  # Zen 4
        ({"avx512_f": True, "avx512_bf16": False, "amx_bf16": True}, True),
        ({"neon": True, "bf16": True}, True),  # Graviton 3
        ({"neon": True, "bf16": False}, False),
        ({"architecture": "ppc64le"}, False),
    ],
)
def test_the_processors_own_products_count_not_emulated_ones(monkeypatch, capabilities, expected):
    asked = []
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: asked.append(1) or capabilities)
    monkeypatch.setattr(precision, "rank", lambda: 0)
    lines = []
    for _ in range(2):
        found = precision_on("cpu", "bf16", lines.append)
        assert found == ("bf16" if expected else "fp32")
    assert len(asked) == 1 and len(lines) == (not expected)


def test_float32_and_gpus_ask_nothing(monkeypatch):
    monkeypatch.setattr(precision, "cpu_has_bfloat16", lambda: pytest.fail("asked the processor"))
    for device, asked in (("cpu", "fp32"), ("cuda", "fp32"), ("cuda", "bf16")):
        assert precision_on(device, asked, lambda text: pytest.fail(text)) == asked


def test_only_the_first_process_explains(monkeypatch):
    monkeypatch.setattr(precision, "cpu_has_bfloat16", lambda: False)
    monkeypatch.setattr(precision, "rank", lambda: 1)
    assert precision_on("cpu", "bf16", lambda text: pytest.fail(text)) == "fp32"


def test_names_are_those_torch_knows():
    """On this machine; a renamed capability would silently count as missing."""
    has = torch.cpu.get_capabilities()
    on_x86 = has["architecture"] == "x86_64"
    assert ({"avx512_bf16", "amx_bf16"} if on_x86 else {"bf16"}) <= has.keys()

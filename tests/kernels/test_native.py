"""The core's row operators against plain torch: values, gradients, layouts, odd rows."""

from __future__ import annotations

import math
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from apportion.kernels import native  # noqa: E402
from apportion.kernels.reference import row as reference  # noqa: E402
from apportion.kernels.reference.row import Row  # noqa: E402

TYPES = {torch.float64: 1e-11, torch.float32: 5e-6, torch.bfloat16: 5e-6}


def case(kind: Any, vocab: int, spread: float) -> tuple[Any, Row, Any]:
    """Logits that are a view, targets in and outside of its columns, a mask, temperatures."""
    source = torch.Generator().manual_seed(vocab)
    whole = (spread * torch.randn(3, 6, vocab + 5, generator=source)).to(kind)
    targets = torch.randint(10, vocab + 10, (3, 5), generator=source)
    mask = torch.rand(3, 5, generator=source) < 0.7
    each = torch.rand(3, 5, generator=source) + 0.5
    row = Row(targets, mask, each.to(reference.accumulated_in(whole)), 9.0, 10, vocab + 20)
    upstream = torch.randn(3, 3, 5, generator=source).to(row.temperature.dtype)
    return whole[:, 1:, :vocab], row, upstream


@pytest.mark.parametrize("kind", TYPES, ids=str)
@pytest.mark.parametrize("vocab", [1, 127, 2053])
@pytest.mark.parametrize("spread", [3.0, 80.0])
def test_as_plain_torch(kind: Any, vocab: int, spread: float) -> None:
    logits, row, upstream = case(kind, vocab, spread)
    assert native.takes(logits)
    wide = logits.double()
    want = reference.row_stats(wide, row, True)
    got = native.row_stats(logits, row, True)
    close = {"rtol": TYPES[kind], "atol": 20 * TYPES[kind]}
    for mine, theirs in zip(got, want, strict=True):
        assert mine.dtype == reference.accumulated_in(logits)
        torch.testing.assert_close(mine.double(), theirs, **close)
    slope = torch.empty_like(wide)
    reference.row_grad(wide, row, want[1:], upstream.double(), slope)
    coarse = {"rtol": 8e-3, "atol": 1e-6} if kind == torch.bfloat16 else close
    for target in ("apart", "in place"):
        source = logits.new_empty(3, 6, vocab + 5)[:, 1:, :vocab].copy_(logits)
        out = source if target == "in place" else torch.full_like(source, math.nan)
        if target == "apart":
            out = out.new_full((3, 6, vocab + 5), math.nan)[:, 1:, :vocab]
        assert native.takes(source, out)
        native.row_grad(source, row, got[1:], upstream, out)
        torch.testing.assert_close(out.double(), slope, **coarse)


@pytest.mark.parametrize("kind", TYPES, ids=str)
def test_logits_that_lie_otherwise_than_their_gradient(kind: Any) -> None:
    """Shifted, cut, or with rows that are one in memory; as an operator's result lies."""
    logits, row, upstream = case(kind, 127, 3.0)
    for source in (logits, logits.transpose(0, 1).contiguous().transpose(0, 1)):
        out = torch.full_like(source, math.nan, memory_format=torch.contiguous_format)
        saved = reference.row_stats(source.double(), row, True)[1:]
        saved = tuple(x.to(row.temperature.dtype) for x in saved)
        kept = source.clone()
        assert native.takes(source, out) and source.stride() != out.stride()
        native.row_grad(source, row, saved, upstream, out)
        slope = torch.empty_like(out, dtype=torch.float64)
        wide = source.double(), row, tuple(x.double() for x in saved), upstream.double()
        reference.row_grad(*wide, slope)
        close = {"rtol": TYPES[kind], "atol": 20 * TYPES[kind]}
        coarse = {"rtol": 8e-3, "atol": 1e-6} if kind == torch.bfloat16 else close
        torch.testing.assert_close(out.double(), slope, **coarse)
        assert torch.equal(source, kept)


def test_rows_outside_the_mask_are_not_read() -> None:
    logits, row, upstream = case(torch.float32, 50, 3.0)
    want = native.row_stats(logits, row, True)
    logits[~row.mask] = math.nan
    got = native.row_stats(logits, row, True)
    assert all(torch.equal(x, y) for x, y in zip(got, want, strict=True))
    native.row_grad(logits, row, got[1:], upstream, logits)
    assert (logits[~row.mask] == 0).all() and logits.isfinite().all()


def test_what_it_does_not_take() -> None:
    plain = torch.zeros(2, 3, 7)
    assert native.takes(plain) and native.takes(plain[:, 1:]) and native.takes(plain[:1, :, 2:4])
    assert not native.takes(plain.half())
    assert not native.takes(plain.transpose(1, 2))
    assert not native.takes(plain[:1].expand(2, 3, 7))
    assert not native.takes(plain, plain.double())
    assert not native.takes(plain.to("meta"))

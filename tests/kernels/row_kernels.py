"""The row kernels against softmax in float64: run by `test_row_kernels.py`, interpreted.

On a machine with a GPU the same tests run there, compiled:
`pytest tests/kernels/row_kernels.py`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from row_oracle import gradients, row_oracle

import apportion as ap
from apportion.kernels import log_probs as operators
from apportion.kernels.dispatch import runs_on_triton
from apportion.kernels.reference.row import Row, merge
from apportion.kernels.triton import row as fused

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(autouse=True)
def poisoned_memory() -> Iterator[None]:
    """Fresh memory is NaN, so that what a kernel leaves out is seen."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)


def case(batch: int, length: int, vocab: int, kind: torch.dtype = torch.float32) -> Any:
    """Logits, targets, a mask and two upstream gradients."""
    source = torch.Generator().manual_seed(vocab)
    logits = (3 * torch.randn(batch, length, vocab, generator=source)).to(kind)
    targets = torch.randint(vocab, (batch, length), generator=source)
    targets[0, 0], targets[-1, -1] = 0, vocab - 1
    mask = torch.rand(batch, length, generator=source) < 0.7
    upstream = torch.randn(2, batch, length, generator=source) * mask
    moved = [x.to(DEVICE) for x in (logits, targets, mask, upstream)]
    return moved[0].requires_grad_(), *moved[1:]


def check(
    logits: torch.Tensor, targets: torch.Tensor, upstream: torch.Tensor, **settings: Any
) -> None:
    """Values and gradient against the oracle on the same logits in float64."""
    assert runs_on_triton(logits)
    exact = logits.detach().cpu().double().requires_grad_()
    known = {"mask", "temperature", "softcap"}
    given = {
        name: value.cpu() if isinstance(value, torch.Tensor) else value
        for name, value in settings.items()
        if name in known
    }
    want = row_oracle(exact, targets.cpu(), **given)
    got = ap.token_log_probs(logits, targets, **settings)
    if got[1] is None:
        want = (want[0], None)
    for x, y in zip(got, want, strict=True):
        if y is not None:
            torch.testing.assert_close(x.cpu().double(), y, rtol=1e-5, atol=1e-5)
    slope = gradients(got, upstream, logits).cpu()
    close = {"rtol": 1e-4, "atol": 2e-6}
    if logits.dtype != torch.float32:  # the interpreter cuts where a GPU rounds
        close = {"rtol": 8e-3, "atol": 1e-5}
    torch.testing.assert_close(
        slope.double(), gradients(want, upstream.cpu().double(), exact), **close
    )


@pytest.mark.parametrize("vocab", [1, 2, 127, 128, 2053, 8192, 8193, 20011])
@pytest.mark.parametrize("softcap", [None, 4.0])
def test_values_and_gradients(vocab: int, softcap: float | None) -> None:
    logits, targets, mask, upstream = case(2, 3, vocab)
    check(logits, targets, upstream, mask=mask, softcap=softcap, temperature=0.7)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("vocab", [50257, 151936])
def test_vocabularies_of_models(vocab: int, kind: torch.dtype) -> None:
    logits, targets, _, upstream = case(1, 2, vocab, kind)
    check(logits, targets, upstream, temperature=1.3)


@pytest.mark.parametrize("settings", ["rows", "sequences", "no entropy", "in place", "no mask"])
def test_settings(settings: str) -> None:
    logits, targets, mask, upstream = case(3, 4, 300)
    each = torch.rand(3, 4, generator=torch.Generator().manual_seed(0)).to(DEVICE) + 0.4
    given: dict[str, Any] = {
        "rows": {"mask": mask, "temperature": each, "softcap": 9.0},
        "sequences": {"mask": mask, "temperature": each[:, 0]},
        "no entropy": {"mask": mask, "entropy": False},
        "in place": {"mask": mask, "in_place": True, "softcap": 9.0},
        "no mask": {},
    }[settings]
    check(logits, targets, upstream, **given)


@pytest.mark.parametrize("height", [20.0, 80.0, 500.0])
def test_peaked_rows(height: float) -> None:
    logits, targets, _, upstream = case(2, 3, 9001)
    with torch.no_grad():
        logits[0, 0, 0] += height  # on the target
        logits[0, 1, 8999] += height  # in the last block
        logits[0, 2] -= height
        logits[1, 0, ::7] -= height
        logits[1, 1] = height * torch.where(logits[1, 1] > 0, 1.0, -1.0)
    check(logits, targets, upstream)
    log_probs, entropy = ap.token_log_probs(logits, targets)
    assert (log_probs <= 0).all() and (entropy >= -1e-6).all()


def test_a_shift_changes_nothing() -> None:
    logits, targets, _, _ = case(2, 3, 5000)
    steps = (logits.detach() * 64).round() / 64  # exact when moved by a power of two
    first, second = (ap.token_log_probs(steps + by, targets) for by in (0.0, 1024.0))
    for x, y in zip(first, second, strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=2e-4)


def test_columns_without_probability() -> None:
    logits, targets, _, upstream = case(2, 3, 20000)
    with torch.no_grad():
        logits[..., : 2 * fused.STATS_BLOCK] = -math.inf  # whole blocks, the first one too
        logits[1, 2, :-1] = -math.inf
    targets = targets.clamp(min=2 * fused.STATS_BLOCK)
    targets[1, 2] = 19999
    check(logits, targets, upstream)
    assert (ap.token_log_probs(logits, targets * 0)[0] == -math.inf).all()


def test_what_is_masked_reaches_nothing() -> None:
    logits, targets, mask, upstream = case(3, 4, 300)
    mask[0], mask[1, 0] = False, True
    clean = ap.token_log_probs(logits, targets, mask=mask)
    poisoned = logits.detach().masked_fill(~mask[..., None], math.nan).requires_grad_()
    got = ap.token_log_probs(poisoned, targets.masked_fill(~mask, -100), mask=mask)
    assert all(torch.equal(x, y) for x, y in zip(got, clean, strict=True))
    assert (got[0][~mask] == 0).all() and (got[1][~mask] == 0).all()
    weights = upstream.masked_fill(~mask, math.nan)
    slope = torch.autograd.grad(got, poisoned, list(weights))[0]
    assert slope.isfinite().all() and (slope[~mask] == 0).all() and (slope[1, 0] != 0).any()


def test_nothing_is_trained() -> None:
    logits, targets, mask, _ = case(2, 3, 40)
    got = ap.token_log_probs(logits, targets, mask=mask & False)
    (got[0].sum() + got[1].sum()).backward()
    assert not got[0].any() and not got[1].any() and not logits.grad.any()


@pytest.mark.parametrize("shape", [(0,), (0, 4), (4, 0)])
def test_no_rows(shape: tuple[int, ...]) -> None:
    logits = torch.zeros(*shape, 5, device=DEVICE, requires_grad=True)
    got = ap.token_log_probs(logits, torch.zeros(shape, dtype=torch.long, device=DEVICE))
    (got[0].sum() + got[1].sum()).backward()
    assert got[0].shape == got[1].shape == shape and logits.grad.shape == logits.shape


def test_no_number_stays_no_number() -> None:
    logits, targets, _, _ = case(1, 3, 300)
    logits = logits.detach().clone()
    logits[0, 0, 7], logits[0, 1, 7] = math.nan, math.inf
    log_probs, entropy = ap.token_log_probs(logits, targets)
    assert log_probs[0, :2].isnan().all() and entropy[0, :2].isnan().all()
    assert log_probs[0, 2].isfinite() and entropy[0, 2].isfinite()
    assert ap.token_log_probs(logits, targets + 300, check=False)[0].isnan().all()


@pytest.mark.parametrize("kind", ["shifted", "turned", "packed"])
def test_views(kind: str) -> None:
    logits, targets, _, upstream = case(3, 5, 200)
    if kind == "shifted":
        check_view(logits[:, :-1], targets[:, 1:], upstream[:, :, 1:], logits)
    elif kind == "turned":
        columns_apart = logits.detach().transpose(1, 2).contiguous().requires_grad_()
        check_view(columns_apart.transpose(1, 2), targets, upstream, columns_apart)
    else:
        check_view(logits.flatten(0, 1)[::2], targets.flatten()[::2], upstream.flatten(1)[:, ::2])


def check_view(
    view: torch.Tensor, targets: torch.Tensor, upstream: torch.Tensor, of: Any = None
) -> None:
    got = ap.token_log_probs(view, targets)
    want = row_oracle(view.cpu(), targets.cpu())
    torch.testing.assert_close([x.cpu().double() for x in got], list(want), rtol=1e-5, atol=1e-5)
    of = view if of is None else of
    slope, expected = (
        gradients(x, y, of) for x, y in ((got, upstream), (want, upstream.cpu().double()))
    )
    torch.testing.assert_close(slope, expected, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("padded", [False, True])
def test_rows_far_apart(padded: bool) -> None:
    """Offsets beyond 2^31 elements, read and written; memory that is not touched costs nothing."""
    if DEVICE == "cuda" and torch.cuda.mem_get_info()[0] < 12 * 2**30:
        pytest.skip("needs 12 GiB")
    far, vocab = 2**31 + 64, 130
    torch.utils.deterministic.fill_uninitialized_memory = False
    memory = torch.empty(2 * far + vocab, dtype=torch.bfloat16, device=DEVICE)
    shape, strides = ((3, 1, vocab), (far, vocab, 1)) if padded else ((1, 3, vocab), (1, far, 1))
    apart = memory.as_strided(shape, strides)
    logits, targets, _, upstream = case(*shape, torch.bfloat16)
    apart.copy_(logits.detach())
    near, wide = (
        ap.token_log_probs(x.requires_grad_(), targets, in_place=in_place)
        for x, in_place in ((logits, False), (apart.detach(), True))
    )
    assert all(torch.equal(x, y) for x, y in zip(near, wide, strict=True))
    slope = gradients(near, upstream, logits)
    row = Row(targets, None, 1.0, None, 0, vocab)
    lse, entropy = fused.row_stats(apart, row, True)[1:]
    weights = (upstream[0], torch.zeros_like(upstream[0]), upstream[1])
    fused.row_grad(apart, row, (lse, entropy), weights, apart)
    assert torch.equal(apart, slope)


def test_no_bit_depends_on_the_other_rows() -> None:
    logits, targets, mask, upstream = case(7, 1, 9001)
    mask[4] = True

    def bits(rows: slice) -> Any:
        own = logits.detach()[rows].clone().requires_grad_()
        got = ap.token_log_probs(own, targets[rows], mask=mask[rows], batch_invariant=True)
        return *got, gradients(got, upstream[:, rows], own)

    for whole, again, part in zip(
        bits(slice(None)), bits(slice(None)), bits(slice(4, 5)), strict=True
    ):
        assert torch.equal(whole, again) and torch.equal(whole[4:5], part)


@pytest.mark.parametrize("cuts", [(0, 7, 300), (0, 100, 100 + 128, 300)])
def test_parts_of_a_vocabulary(cuts: tuple[int, ...]) -> None:
    logits, targets, mask, upstream = case(3, 4, 300)
    logits.data[0, 0, : cuts[1]] = -math.inf
    targets[0, 0], mask[0, 0] = 299, True
    row = Row(targets, mask, 0.8, None, 0, 300)
    whole = fused.row_stats(logits.detach(), row, True)
    weights = (upstream[0], upstream[1], upstream[0] - upstream[1])
    slope = torch.empty_like(logits.detach())
    fused.row_grad(logits.detach(), row, whole[1:], weights, slope)
    parts = [
        (logits.detach()[..., low:high], replace(row, vocab_offset=low))
        for low, high in itertools.pairwise(cuts)
    ]
    found = merge(*map(torch.stack, zip(*(fused.row_stats(*p, True) for p in parts), strict=True)))
    for x, y in zip(found, whole, strict=True):
        torch.testing.assert_close(x[mask], y[mask], rtol=1e-5, atol=1e-5)
    for (part, own), low in zip(parts, cuts, strict=False):
        out = torch.empty_like(part, memory_format=torch.contiguous_format)
        fused.row_grad(part, own, whole[1:], weights, out)
        torch.testing.assert_close(out, slope[..., low : low + part.shape[-1]])


def test_the_kernels_are_the_operators() -> None:
    logits, targets, mask, upstream = case(2, 3, 60)

    def both(x: torch.Tensor) -> Any:
        return ap.token_log_probs(2 * x, targets, mask=mask, temperature=0.9)

    compiled = torch.compile(both, fullgraph=True, backend="aot_eager", dynamic=True)
    for x, y in zip(compiled(logits), both(logits), strict=True):
        assert torch.equal(x, y)
    slopes = [gradients(f(logits), upstream, logits) for f in (compiled, both)]
    assert torch.equal(*slopes)
    settings = (targets, mask, None, 0.9, None, 0, 60, False, True)
    torch.library.opcheck(torch.ops.apportion.row_stats.default, (logits, *settings))


def test_float64_is_not_rounded() -> None:
    logits, targets, _, _ = case(2, 3, 40)
    exact = logits.detach().double()
    assert not runs_on_triton(exact)
    got = operators.row_stats(exact, Row(targets, None, 1.0, None, 0, 40), True)
    want = row_oracle(exact.cpu(), targets.cpu())
    torch.testing.assert_close(got[0].cpu(), want[0], rtol=1e-13, atol=1e-13)

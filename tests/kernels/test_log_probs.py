"""`token_log_probs` on a processor: against autograd in float64, odd rows, wrong input."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from row_oracle import gradients, row_oracle  # noqa: E402

import apportion as ap  # noqa: E402
from apportion.errors import DtypeError, InputError, OptionError  # noqa: E402
from apportion.kernels import native  # noqa: E402

FOLDER = Path(__file__).parent
RELEASE = tuple(int(part) for part in torch.__version__.split(".")[:2])


def case(batch: int, length: int, vocab: int, seed: int = 0, spread: float = 3.0) -> Any:
    """Logits, targets, a mask and two upstream gradients, in float64."""
    source = torch.Generator().manual_seed(seed)
    logits = spread * torch.randn(batch, length, vocab, generator=source, dtype=torch.float64)
    targets = torch.randint(vocab, (batch, length), generator=source)
    mask = torch.rand(batch, length, generator=source) < 0.7
    upstream = torch.randn(2, batch, length, generator=source, dtype=torch.float64)
    return logits.requires_grad_(), targets, mask, upstream * mask


@pytest.fixture(params=["core", "torch"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows go through the core where it takes them; once more without it."""
    if request.param == "torch":
        monkeypatch.setattr(native, "takes", lambda *_: False)


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize("temperature", ["one", "number", "sequences", "rows"])
@pytest.mark.parametrize("in_place", [False, True])
def test_values_and_gradients(softcap: float | None, temperature: str, in_place: bool) -> None:
    logits, targets, mask, upstream = case(3, 5, 11)
    given = {
        "one": 1.0,
        "number": 0.7,
        "sequences": torch.tensor([0.5, 1.0, 2.0]),
        "rows": torch.rand(3, 5, generator=torch.Generator().manual_seed(1)) + 0.5,
    }[temperature]
    want = row_oracle(logits, targets, mask, given, softcap)
    slope = gradients(want, upstream, logits)
    copy = logits.clone()
    got = ap.token_log_probs(
        copy,
        targets,
        mask=mask,
        temperature=given,
        softcap=softcap,
        in_place=in_place,
    )
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradients(got, upstream, logits), slope, rtol=1e-11, atol=1e-12)


def test_packed_rows_are_padded_rows() -> None:
    logits, targets, mask, _ = case(4, 3, 7)
    padded = ap.token_log_probs(logits, targets, mask=mask)
    packed = ap.token_log_probs(logits.flatten(0, 1), targets.flatten(), mask=mask.flatten())
    for left, right in zip(padded, packed, strict=True):
        assert torch.equal(left.flatten(), right)


@pytest.mark.usefixtures("path")
def test_gradcheck() -> None:
    logits, targets, mask, _ = case(2, 3, 6)
    each = torch.tensor([[0.5, 1.0, 2.0], [1.5, 0.7, 1.0]], dtype=torch.float64)

    def both(x: torch.Tensor) -> Any:
        return ap.token_log_probs(x, targets, mask=mask, temperature=each, softcap=4.0)

    assert torch.autograd.gradcheck(both, (logits,))


@pytest.mark.usefixtures("path")
def test_entropy_left_out() -> None:
    logits, targets, _, upstream = case(2, 3, 6)
    got = ap.token_log_probs(logits, targets, entropy=False)
    assert got[1] is None
    want = row_oracle(logits, targets)[0]
    torch.testing.assert_close(got[0], want)
    torch.testing.assert_close(
        gradients(got, upstream, logits), gradients((want, None), upstream, logits)
    )


@pytest.mark.usefixtures("path")
def test_what_is_masked_reaches_nothing() -> None:
    logits, targets, mask, upstream = case(3, 4, 9)
    clean = ap.token_log_probs(logits, targets, mask=mask)
    poisoned = logits.detach().masked_fill(~mask[..., None], math.nan).requires_grad_()
    wild = targets.masked_fill(~mask, -100)
    got = ap.token_log_probs(poisoned, wild, mask=mask)
    upstream = upstream.masked_fill(~mask, math.nan)
    assert all(torch.equal(x, y) for x, y in zip(got, clean, strict=True))
    assert (got[0][~mask] == 0).all() and (got[1][~mask] == 0).all()
    slope = torch.autograd.grad(got, poisoned, list(upstream))[0]
    assert slope.isfinite().all() and (slope[~mask] == 0).all()


@pytest.mark.usefixtures("path")
def test_columns_without_probability() -> None:
    logits, targets, _, upstream = case(2, 3, 8)
    with torch.no_grad():
        logits[..., 1::2] = -math.inf
        logits[1, 2] = -math.inf
        logits[1, 2, 4] = 2.5
    targets = targets // 2 * 2
    targets[1, 2] = 4
    got = ap.token_log_probs(logits, targets)
    torch.testing.assert_close(got, row_oracle(logits, targets))
    assert got[0][1, 2] == 0 and got[1][1, 2] == 0
    slope = gradients(got, upstream, logits)
    assert slope.isfinite().all() and (slope[..., 1::2] == 0).all() and (slope[1, 2] == 0).all()
    improbable = ap.token_log_probs(logits, torch.ones_like(targets))[0]
    assert (improbable == -math.inf).all()


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("shape", [(0,), (0, 4), (4, 0)])
def test_no_rows(shape: tuple[int, ...]) -> None:
    logits = torch.zeros(*shape, 5, requires_grad=True)
    got = ap.token_log_probs(logits, torch.zeros(shape, dtype=torch.long))
    assert got[0].shape == got[1].shape == shape
    (got[0].sum() + got[1].sum()).backward()
    assert logits.grad.shape == logits.shape


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("vocab", [1, 127, 2053])
def test_types(kind: torch.dtype, vocab: int) -> None:
    logits, targets, mask, upstream = case(2, 3, vocab)
    low = logits.detach().to(kind).requires_grad_()
    exact = low.detach().double().requires_grad_()
    got, want = (ap.token_log_probs(x, targets, mask=mask) for x in (low, exact))
    assert got[0].dtype == got[1].dtype == torch.float32 and want[0].dtype == torch.float64
    torch.testing.assert_close([x.double() for x in got], list(want), rtol=1e-5, atol=1e-5)
    slope = gradients(got, upstream.float(), low)
    assert slope.dtype == kind
    near = {"rtol": 1e-5, "atol": 1e-6} if kind == torch.float32 else {"rtol": 8e-3, "atol": 1e-4}
    torch.testing.assert_close(slope.double(), gradients(want, upstream, exact), **near)


@pytest.mark.usefixtures("path")
def test_views_are_read_in_place() -> None:
    logits, targets, _, upstream = case(3, 6, 9)
    shifted = ap.token_log_probs(logits[:, :-1], targets[:, 1:])
    whole = ap.token_log_probs(logits[:, :-1].contiguous(), targets[:, 1:])
    assert all(torch.equal(x, y) for x, y in zip(shifted, whole, strict=True))
    turned = logits.detach().transpose(0, 2).contiguous().transpose(0, 2).requires_grad_()
    got = ap.token_log_probs(turned, targets)
    want = row_oracle(turned, targets)
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(gradients(got, upstream, turned), gradients(want, upstream, turned))


def test_in_place_uses_the_logits() -> None:
    logits, targets, _, _ = case(2, 3, 6)
    copy = logits * 1.0
    log_probs, entropy = ap.token_log_probs(copy, targets, in_place=True)
    before, total = copy.detach().clone(), log_probs.sum() + entropy.sum()
    total.backward(retain_graph=True)
    assert torch.equal(copy, logits.grad) and not torch.equal(copy, before)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        total.backward()


@pytest.mark.usefixtures("path")
def test_no_bit_depends_on_the_other_rows() -> None:
    logits, targets, _, upstream = (x.detach() for x in case(7, 1, 4099))
    logits = logits.float().requires_grad_()

    def bits(rows: slice) -> Any:
        results = ap.token_log_probs(logits[rows], targets[rows], batch_invariant=True)
        return *results, gradients(results, upstream[:, rows].float(), logits)[rows]

    for whole, part in zip(bits(slice(None)), bits(slice(4, 5)), strict=True):
        assert torch.equal(whole[4:5], part)


def test_certain_tokens_are_not_more_than_certain() -> None:
    logits = torch.zeros(64, 300)
    logits[:, 7] = torch.linspace(20, 90, 64)
    log_probs, entropy = ap.token_log_probs(logits, torch.full((64,), 7))
    assert (log_probs <= 0).all() and (entropy >= 0).all()


@pytest.mark.parametrize("world", [1, 2])
def test_split_vocabulary(world: int, tmp_path: Path) -> None:
    command = [sys.executable, str(FOLDER / "row_ranks.py"), str(world), str(tmp_path / "got")]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    for rank in range(world):
        errors = torch.load(tmp_path / f"got{rank}")
        assert max(errors.values()) < 1e-12, errors


@pytest.mark.skipif(RELEASE < (2, 8), reason="its torch.compile breaks the graph")
def test_compiled_whole() -> None:
    logits, targets, mask, upstream = case(2, 3, 6)

    def both(x: torch.Tensor) -> Any:
        return ap.token_log_probs(2 * x, targets, mask=mask, temperature=0.9, softcap=7.0)

    compiled = torch.compile(both, fullgraph=True, backend="aot_eager", dynamic=True)
    torch.testing.assert_close(compiled(logits), both(logits))
    torch.testing.assert_close(
        gradients(compiled(logits), upstream, logits), gradients(both(logits), upstream, logits)
    )


@pytest.mark.parametrize("kind", [torch.float64, torch.float32])
def test_operators_are_registered_in_full(kind: torch.dtype) -> None:
    logits, targets, mask, _ = case(2, 3, 6)
    ap.token_log_probs(logits, targets)  # the first use registers them
    logits = logits.detach().to(kind).requires_grad_()
    each = torch.rand(2, 3) + 0.5
    operators = torch.ops.apportion
    for settings in (
        (targets, mask, each, 1.0, 4.0, 0, 6, False),
        (targets, None, None, 0.5, None, 6, 12, True),
    ):
        torch.library.opcheck(operators.row_stats.default, (logits, *settings, True))
        torch.library.opcheck(operators.row_stats.default, (logits, *settings, False))
        saved = torch.zeros(2, 3, dtype=kind), torch.ones(2, 3, dtype=kind)
        upstream = (*saved, None)
        arguments = (logits.detach(), *settings, *saved, *upstream)
        torch.library.opcheck(operators.row_grad.default, arguments)


class Distributed(torch.Tensor):
    """What tells a DTensor."""

    def to_local(self) -> torch.Tensor:
        raise NotImplementedError


X, Y = torch.zeros(2, 3, 5), torch.zeros(2, 3, dtype=torch.long)
WRONG = {
    "logits: got list": (DtypeError, lambda: ap.token_log_probs([[1.0]], Y)),
    "logits: got a DTensor": (
        InputError,
        lambda: ap.token_log_probs(X.as_subclass(Distributed), Y),
    ),
    "logits: got torch.int64": (DtypeError, lambda: ap.token_log_probs(X.long(), Y)),
    r"logits: got shape \(5,\)": (InputError, lambda: ap.token_log_probs(X[0, 0], Y[0, 0])),
    "logits: got a vocabulary of 0": (InputError, lambda: ap.token_log_probs(X[..., :0], Y)),
    "logits: got an expanded": (
        InputError,
        lambda: ap.token_log_probs(
            torch.zeros(1, 1, 5, requires_grad=True).expand(2, 3, 5), Y, in_place=True
        ),
    ),
    "targets: got torch.float32": (DtypeError, lambda: ap.token_log_probs(X, Y.float())),
    r"targets: got shape \(2,\)": (InputError, lambda: ap.token_log_probs(X, Y[:, 0])),
    "targets: got device meta": (InputError, lambda: ap.token_log_probs(X, Y.to("meta"))),
    r"targets\[1, 2\]: got 5, expected 0 to 4": (
        InputError,
        lambda: ap.token_log_probs(X, torch.tensor([[0, 0, 0], [0, 0, 5]])),
    ),
    r"targets\[1\]: got -1": (
        InputError,
        lambda: ap.token_log_probs(X[0], torch.tensor([0, -1, 0])),
    ),
    r"mask: got shape \(2,\)": (InputError, lambda: ap.token_log_probs(X, Y, mask=Y[:, 0])),
    r"mask\[0, 0\]: got 2": (InputError, lambda: ap.token_log_probs(X, Y, mask=Y + 2)),
    "temperature: got 0": (OptionError, lambda: ap.token_log_probs(X, Y, temperature=0)),
    "temperature: got -1.0": (OptionError, lambda: ap.token_log_probs(X, Y, temperature=-1.0)),
    r"temperature\[0, 1\]: got -1.0": (
        InputError,
        lambda: ap.token_log_probs(X[:1], Y[:1], temperature=torch.tensor([[1.0, -1.0, 1.0]])),
    ),
    r"temperature: got shape \(3,\)": (
        InputError,
        lambda: ap.token_log_probs(X, Y, temperature=torch.ones(3)),
    ),
    "temperature: got a tensor with a gradient": (
        InputError,
        lambda: ap.token_log_probs(X, Y, temperature=torch.ones(2, requires_grad=True)),
    ),
    "softcap: got 0": (OptionError, lambda: ap.token_log_probs(X, Y, softcap=0)),
    "vocab_offset: got 3": (OptionError, lambda: ap.token_log_probs(X, Y, vocab_offset=3)),
    "vocab_size: got 9": (OptionError, lambda: ap.token_log_probs(X, Y, vocab_size=9)),
}


@pytest.mark.parametrize("message", WRONG)
def test_wrong_input(message: str) -> None:
    error, call = WRONG[message]
    with pytest.raises(error, match=message):
        call()


@pytest.mark.usefixtures("path")
def test_unchecked_targets_give_no_number() -> None:
    log_probs, _ = ap.token_log_probs(X, Y + 5, check=False)
    assert log_probs.isnan().all()

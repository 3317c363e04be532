"""`token_log_probs` of hidden states and a head: against the path with logits, in every mode."""

from __future__ import annotations

import math
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

import apportion as ap  # noqa: E402
from apportion.errors import DtypeError, InputError, OptionError  # noqa: E402
from apportion.kernels.linear.plan import Plan, make_plan  # noqa: E402

VOCAB = 41


def case(kind: Any = torch.float64, trained: bool = True, bias: bool = True) -> tuple[Any, ...]:
    """Hidden states `(3, 5, 6)`, head, targets, mask and two upstream gradients."""
    source = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Any:
        return torch.randn(*shape, generator=source, dtype=torch.float64).to(kind)

    hidden = normal(3, 5, 6).requires_grad_()
    head = [normal(VOCAB, 6), normal(VOCAB)][: 2 if bias else 1]
    head = [part.requires_grad_(trained) for part in head]
    targets = torch.randint(VOCAB, (3, 5), generator=source)
    mask = torch.rand(3, 5, generator=source) < 0.7
    upstream = torch.randn(2, 3, 5, generator=source, dtype=torch.float64)
    return (hidden, *head), targets, mask, upstream


def gradients(got: Any, upstream: Any, leaves: Any) -> Any:
    log_probs, entropy = got
    loss = (log_probs * upstream[0]).sum()
    if entropy is not None:
        loss = loss + (entropy * upstream[1]).sum()
    return torch.autograd.grad(loss, [leaf for leaf in leaves if leaf.requires_grad])


def of_logits(given: Any, targets: Any, **options: Any) -> Any:
    logits = given[0] @ given[1].t() + (given[2] if len(given) == 3 else 0)
    return ap.token_log_probs(logits, targets, **options)


@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("entropy", [True, False])
@pytest.mark.parametrize("budget", [None, VOCAB * 8, VOCAB * 8 * 4])
def test_as_with_logits(trained: bool, bias: bool, entropy: bool, budget: int | None) -> None:
    given, targets, mask, upstream = case(trained=trained, bias=bias)
    each = torch.rand(3, 5, generator=torch.Generator().manual_seed(1)) + 0.5
    options = {"mask": mask, "temperature": each, "softcap": 4.0, "entropy": entropy}
    options["logit_scale"] = 1.3
    want = of_logits(given, targets, **options)
    got = ap.token_log_probs(given, targets, memory_budget=budget, **options)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
    expected = gradients(want, upstream, given)
    torch.testing.assert_close(gradients(got, upstream, given), expected, rtol=1e-11, atol=1e-12)


def test_frozen_is_recomputed() -> None:
    given, targets, _, upstream = case(trained=False)
    both = [
        ap.token_log_probs(given, targets, mode=mode, entropy=False)
        for mode in ("frozen", "recompute")
    ]
    one, two = (gradients(got, upstream, given)[0] for got in both)
    torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("budget", [VOCAB * 8, VOCAB * 8 * 7])
def test_gradcheck(budget: int) -> None:
    given, targets, mask, _ = case()

    def both(*parts: Any) -> Any:
        return ap.token_log_probs(
            parts, targets, mask=mask, temperature=0.8, softcap=3.0, memory_budget=budget
        )

    assert torch.autograd.gradcheck(both, given)


def test_logit_scale_of_logits() -> None:
    logits, targets = 3 * torch.randn(4, 9, dtype=torch.float64), torch.tensor([0, 3, 8, 1])
    for cap in (None, 2.0):
        got = ap.token_log_probs(logits, targets, softcap=cap, logit_scale=0.3, temperature=0.7)
        want = ap.token_log_probs(logits * 0.3, targets, softcap=cap, temperature=0.7)
        torch.testing.assert_close(got, want, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_half_precision_has_float32_logits(kind: Any) -> None:
    given, targets, _, upstream = case(kind)
    wide = tuple(part.detach().double().requires_grad_() for part in given)
    want = of_logits(wide, targets)
    got = ap.token_log_probs(given, targets)
    assert got[0].dtype == torch.float32
    torch.testing.assert_close([x.double() for x in got], list(want), rtol=2e-6, atol=2e-6)
    slopes = gradients(got, upstream, given)
    assert all(slope.dtype == kind for slope in slopes)
    for mine, theirs in zip(slopes, gradients(want, upstream, wide), strict=True):
        # Rounded once, to the type of what it is the gradient of.
        torch.testing.assert_close(mine.double(), theirs, rtol=5e-3, atol=1e-3)


def test_no_bit_depends_on_the_other_tokens() -> None:
    hidden, weight = torch.randn(300, 96), torch.randn(1001, 96)
    targets, order = torch.randint(1001, (300,)), torch.randperm(300)

    def both(at: Any) -> Any:
        return ap.token_log_probs((hidden[at], weight), targets[at], batch_invariant=True)

    whole = both(slice(None))
    for at in (order, slice(7, 8), slice(100, 290)):
        assert all(torch.equal(x, y[at]) for x, y in zip(both(at), whole, strict=True))


class Largest(TorchDispatchMode):
    """The most numbers that a tensor made inside has."""

    def __init__(self) -> None:
        super().__init__()
        self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, torch.Tensor):
                self.most = max(self.most, tensor.numel())
        return out


@pytest.mark.parametrize("trained", [True, False])
def test_never_holds_all_logits(trained: bool) -> None:
    tokens, vocab, width = 200, 3000, 4
    hidden = torch.randn(tokens, width, requires_grad=True)
    weight = torch.randn(vocab, width, requires_grad=trained)
    targets = torch.randint(vocab, (tokens,))
    with Largest() as seen:
        log_probs, entropy = ap.token_log_probs(
            (hidden, weight), targets, memory_budget=50 * vocab * 4
        )
        (log_probs.sum() + entropy.sum()).backward()
    assert seen.most <= 50 * vocab
    assert tokens * vocab == 4 * 50 * vocab


def test_what_is_masked_reaches_nothing() -> None:
    given, targets, mask, upstream = case()
    want = ap.token_log_probs(given, targets, mask=mask)
    expected = gradients(want, upstream, given)
    hidden = given[0].detach().masked_fill(~mask[..., None], math.nan).requires_grad_()
    poisoned = (hidden, *given[1:])
    got = ap.token_log_probs(poisoned, targets.masked_fill(~mask, -100), mask=mask)
    assert all(torch.equal(x, y) for x, y in zip(got, want, strict=True))
    found = gradients(got, upstream, poisoned)
    assert all(torch.equal(x, y) for x, y in zip(found, expected, strict=True))


@pytest.mark.parametrize("tokens", [0, 3])
def test_nothing_to_do(tokens: int) -> None:
    hidden, weight = torch.randn(tokens, 4, requires_grad=True), torch.randn(9, 4)
    weight.requires_grad_()
    mask = torch.zeros(tokens, dtype=torch.bool)
    got = ap.token_log_probs((hidden, weight), torch.zeros(tokens).long(), mask=mask)
    (got[0].sum() + got[1].sum()).backward()
    assert (got[0] == 0).all() and (hidden.grad == 0).all() and (weight.grad == 0).all()


def test_without_gradient_nothing_is_kept() -> None:
    given, targets, _, _ = case()
    with torch.no_grad():
        got = ap.token_log_probs(given, targets)
    assert not got[0].requires_grad


def test_autocast() -> None:
    given, targets, _, _ = case(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got, _ = ap.token_log_probs(given, targets)
    half = tuple(part.bfloat16() for part in given)
    assert torch.equal(got, ap.token_log_probs(half, targets)[0])


def test_plans() -> None:
    assert make_plan(10, 50, 8, 4, 50 * 4) == Plan(rows=1, slab=50, tile=1)
    # 160 MiB of float32 logits.
    long = make_plan(131072, 151936, 896, 4, 160 * 2**20)
    assert long == Plan(rows=276, slab=2048, tile=20480)
    assert make_plan(8192, 151936, 896, 4, 160 * 2**20) == Plan(rows=276, slab=5120, tile=8192)
    # A slab of the head's gradient is no larger than the logits.
    assert make_plan(16, 151936, 4096, 4, 160 * 2**20).slab == 10240
    for tokens in (1, 100, 5000):
        plan = make_plan(tokens, 32000, 64, 4, 10 * 2**20)
        assert plan.rows * 32000 * 4 <= 10 * 2**20 and plan.slab * plan.tile * 4 <= 10 * 2**20


def wrong() -> Any:
    (hidden, weight, bias), targets, _, _ = case()
    call = ap.token_log_probs
    yield "weight: got shape", InputError, lambda: call((hidden, weight[:, :2]), targets)
    yield "bias: got shape", InputError, lambda: call((hidden, weight, bias[:2]), targets)
    yield "hidden: got shape", InputError, lambda: call((hidden[0, 0], weight), targets)
    yield "weight: got torch.float32", DtypeError, lambda: call((hidden, weight.float()), targets)
    yield "hidden: got list", DtypeError, lambda: call(([1.0], weight), targets)
    yield "logits: got 1 parts", InputError, lambda: call((hidden,), targets)
    yield "targets: got shape", InputError, lambda: call((hidden, weight), targets[:2])
    yield "targets[0, 0]: got 99", InputError, lambda: call((hidden, weight), targets * 0 + 99)
    yield (
        "memory_budget: got 10, expected an integer of at least 328 bytes",
        OptionError,
        lambda: call((hidden, weight), targets, memory_budget=10),
    )
    yield "mode: got 'fast'", OptionError, lambda: call((hidden, weight), targets, mode="fast")
    yield "mode: got 'frozen'", OptionError, lambda: call((hidden, weight), targets, mode="frozen")
    yield "in_place", OptionError, lambda: call((hidden, weight), targets, in_place=True)
    logits = torch.zeros(3, 5, VOCAB)
    yield "memory_budget", OptionError, lambda: call(logits, targets, memory_budget=1 << 20)
    yield "logit_scale: got 0", OptionError, lambda: call(logits, targets, logit_scale=0.0)


@pytest.mark.parametrize(("message", "error", "call"), list(wrong()), ids=lambda x: str(x)[:24])
def test_wrong_input(message: str, error: Any, call: Any) -> None:
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value).startswith(message)

"""The operators of a head: registered in full, compiled as a whole, differentiated once."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from test_linear import VOCAB, case, gradients  # noqa: E402

import apportion as ap  # noqa: E402

BUDGET = VOCAB * 8 * 4


@pytest.mark.parametrize(("kind", "trained"), [(torch.float64, True), (torch.bfloat16, False)])
def test_registered_in_full(kind: Any, trained: bool) -> None:
    (hidden, weight, bias), targets, mask, _ = case(kind, trained=trained)
    ap.token_log_probs((hidden, weight), targets)  # the first use registers them
    hidden = hidden.detach().reshape(15, 6).requires_grad_()
    targets, mask = targets.reshape(-1), mask.reshape(-1)
    each = torch.rand(15) + 0.5
    check, operators = torch.library.opcheck, torch.ops.apportion
    for own in (
        (hidden, weight, bias, targets, mask, each, 1.0, 4.0, False, BUDGET),
        (hidden, weight, None, targets, None, None, 0.5, None, True, BUDGET),
    ):
        for frozen, entropy in ((False, True), (not trained, False)):
            check(operators.linear_log_probs.default, (*own, frozen, entropy))
        found = operators.linear_log_probs(*own, not trained, True)
        saved = [x.detach() for x in found[1:]]
        given = [x.detach() if isinstance(x, torch.Tensor) else x for x in own]
        for dentropy, wanted in ((saved[0], [True, trained, False]), (None, [True, False, False])):
            arguments = (*given, *saved, saved[1], dentropy, wanted)
            check(operators.linear_log_probs_grad.default, arguments)


@pytest.mark.parametrize("trained", [True, False])
def test_gradcheck_with_the_mask_inside(trained: bool) -> None:
    (hidden, weight, bias), targets, mask, _ = case(trained=trained)
    own = targets.reshape(-1), mask.reshape(-1), None, 0.8, 3.0, False, BUDGET, not trained

    def both(entropy: bool, *parts: Any) -> Any:
        flat = parts[0].reshape(15, 6), *parts[1:]
        found = torch.ops.apportion.linear_log_probs(*flat, *own, entropy)
        return (found[0], found[2]) if entropy else found[0]

    for entropy in (True, False):
        assert torch.autograd.gradcheck(partial(both, entropy), (hidden, weight, bias))


def outcome(function: Any, leaves: list[Any], upstream: Any) -> tuple[Any, Any]:
    found = function(*leaves)
    found = (found[0], found[1]) if found[1] is not None else (found[0], None)
    return found[0], gradients(found, upstream, leaves)


@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize(("entropy", "masked"), [(True, True), (False, True), (False, False)])
def test_compiled_whole(trained: bool, entropy: bool, masked: bool) -> None:
    given, targets, mask, upstream = case(trained=trained)
    if masked:  # and what is outside the mask reaches nothing
        hidden = given[0].detach().masked_fill(~mask[..., None], math.nan)
        given = (hidden.requires_grad_(), *given[1:])
        upstream = upstream.masked_fill(~mask, math.nan) if entropy else upstream

    def call(*parts: Any) -> Any:
        options = {"mask": mask if masked else None, "memory_budget": BUDGET, "softcap": 4.0}
        return ap.token_log_probs(parts, targets, entropy=entropy, temperature=0.7, **options)

    torch.compiler.reset()
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    want, got = (outcome(function, list(given), upstream) for function in (call, compiled))
    torch.testing.assert_close(got, want, rtol=1e-13, atol=1e-14)


def test_half_precision_under_autocast_compiled() -> None:
    given, targets, mask, upstream = case(torch.float32)

    def call(*parts: Any) -> Any:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return ap.token_log_probs(parts, targets, mask=mask)

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    want, got = (outcome(function, list(given), upstream) for function in (call, compiled))
    torch.testing.assert_close(got, want)


def test_every_size_by_one_graph() -> None:
    """Other numbers of tokens, within and outside the mask, compile nothing anew."""
    frames: list[Any] = []

    def backend(graph: Any, _: Any) -> Any:
        frames.append(graph)
        return graph

    def call(hidden: Any, weight: Any, targets: Any, mask: Any) -> Any:
        return ap.token_log_probs((hidden, weight), targets, mask=mask)

    torch.compiler.reset()
    compiled = torch.compile(call, fullgraph=True, backend=backend, dynamic=True)
    for count in (7, 12, 31):
        given = torch.randn(count, 6), torch.randn(VOCAB, 6), torch.randint(VOCAB, (count,))
        mask = torch.arange(count) % 3 > 0
        torch.testing.assert_close(compiled(*given, mask), call(*given, mask))
    assert len(frames) == 1


@pytest.mark.parametrize("frozen", [True, False])
def test_a_second_derivative_is_refused(frozen: bool) -> None:
    given, targets, mask, _ = case(trained=not frozen)
    log_probs, _ = ap.token_log_probs(given, targets, mask=mask, entropy=False)
    (slope,) = torch.autograd.grad(log_probs.square().sum(), given[:1], create_graph=True)
    with pytest.raises(RuntimeError, match="linear_log_probs_grad"):
        torch.autograd.grad(slope.sum(), given[:1])


LOSSES = [{"loss": "gspo", "entropy_coef": 0.1}, {"ratio": "turn", "mode": "recompute"}]


@pytest.mark.parametrize("options", LOSSES, ids=str)
def test_policy_loss_compiled_whole(options: dict[str, Any]) -> None:
    given, targets, mask, upstream = case()
    old, advantages = -upstream[0].abs(), upstream[1]

    def call(hidden: Any, weight: Any, bias: Any) -> Any:
        tensors = hidden, weight, targets, old, advantages, mask
        return ap.linear_policy_loss(*tensors, bias=bias, **options)

    torch.compiler.reset()
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    (want, metrics), (got, own) = call(*given), compiled(*given)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(own, metrics, rtol=1e-12, atol=1e-13)
    expected, found = (torch.autograd.grad(loss, given) for loss in (want, got))
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-13)


def test_one_pass_is_not_compiled() -> None:
    given, targets, mask, upstream = case()

    def call(hidden: Any, weight: Any) -> Any:
        tensors = hidden, weight, targets, upstream[0], upstream[1], mask
        return ap.linear_policy_loss(*tensors, mode="fused")[0]

    want = torch.autograd.grad(call(*given[:2]), given[:2])
    torch.compiler.reset()
    with pytest.raises(torch._dynamo.exc.Unsupported, match="OptionError"):
        torch.compile(call, fullgraph=True, backend="aot_eager")(*given[:2])
    torch.compiler.reset()
    broken = torch.compile(call, backend="aot_eager")(*given[:2])  # runs as it is
    torch.testing.assert_close(torch.autograd.grad(broken, given[:2]), want)

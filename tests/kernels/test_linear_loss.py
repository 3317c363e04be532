"""`linear_policy_loss` against the two calls that it stands for, value, gradients and metrics."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import apportion as ap  # noqa: E402
from apportion.errors import InputError, OptionError  # noqa: E402
from apportion.loss.linear import pieces_within  # noqa: E402

B, T, H, V = 4, 9, 6, 40
AROUND = ("loss_agg_mode", "count_rows", "row_eps", "count_floor", "scale_factor")


def case(packed: bool = False, trained: bool = True) -> tuple[list[Any], dict[str, Any], Any]:
    """The tensors of a call, what is given by name, and the reference's log-probabilities."""
    source = torch.Generator().manual_seed(2)

    def normal(*shape: int) -> Any:
        return torch.randn(*shape, generator=source, dtype=torch.float64)

    hidden, weight, bias = normal(B, T, H), normal(V, H), normal(V)
    targets = torch.randint(V, (B, T), generator=source)
    mask = (torch.arange(T) % 4 != 3).repeat(B, 1)  # turns of three, three and one
    mask[1] = False
    own, _ = ap.token_log_probs((hidden, weight, bias), targets)
    old, ref = own + 0.3 * normal(B, T), own + 0.1 * normal(B, T)
    given = [hidden, targets, old, normal(B, T), mask]
    named: dict[str, Any] = {}
    if packed:
        given = [x.reshape(B * T, *x.shape[2:]) for x in given]
        named["offsets"], ref = torch.arange(0, B * T + 1, T), ref.reshape(-1)
    given[0] = given[0].requires_grad_()
    given.insert(1, weight.requires_grad_(trained))
    named["bias"] = bias.requires_grad_(trained)
    return given, named, ref


def two_calls(given: list[Any], named: dict[str, Any], coef: float, **options: Any) -> Any:
    hidden, weight, targets, old, advantages, mask = given
    own = {k: v for k, v in named.items() if k == "offsets"}
    logits = hidden @ weight.t() + named["bias"]
    log_probs, entropy = ap.token_log_probs(logits, targets, temperature=0.8, softcap=6.0)
    loss, metrics = ap.policy_loss(log_probs, old, advantages, mask, **own, **options)
    around = {**ap.losses()[options.get("loss", "ppo")].around, **options}
    how = {name: around[name] for name in AROUND if name in around}
    return loss - coef * ap.aggregate(entropy, mask, **own, **how), metrics


LOSSES = [
    {},
    {"loss": "cispo", "kl_coef": 0.1},
    {"loss": "gspo"},
    {"loss": "geo_mean"},
    {"loss": "ppo", "ratio": "turn"},
    {"loss": "vespo"},
    {"loss": "dppo_kl", "loss_agg_mode": "seq-mean-token-mean"},
    {"loss": "sequence_ppo"},
    {"loss": "kl_cov"},
    {"loss_agg_mode": "dr-grpo", "scale_factor": 9.0},
]


@pytest.mark.parametrize("options", LOSSES, ids=str)
@pytest.mark.parametrize("mode", ["auto", "fused", "recompute"])
@pytest.mark.parametrize("rows", [6, 100])
@pytest.mark.parametrize("kind", ["padded", "packed, frozen"])
def test_as_two_calls(options: dict[str, Any], mode: str, rows: int, kind: str) -> None:
    given, named, ref = case(packed=kind != "padded", trained=kind == "padded")
    if "kl_coef" in options:
        options = {**options, "ref_log_probs": ref}
    how = {"temperature": 0.8, "softcap": 6.0, "mode": mode, "memory_budget": V * 8 * rows}
    leaves = [x for x in (given[0], given[1], named["bias"]) if x.requires_grad]
    if mode == "fused" and not can_be_fused(options, rows):
        with pytest.raises(OptionError, match="mode: got 'fused'"):
            ap.linear_policy_loss(*given, **named, **how, **options)
        return
    want, metrics = two_calls(given, named, 0.01, **options)
    got, own = ap.linear_policy_loss(*given, **named, entropy_coef=0.01, **how, **options)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-13)
    for name, value in metrics.items():
        torch.testing.assert_close(own[name], value, rtol=1e-12, atol=1e-13)
    expected = torch.autograd.grad(want, leaves)
    found = torch.autograd.grad(3 * got, leaves)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, 3 * theirs, rtol=1e-11, atol=1e-13)


def can_be_fused(options: dict[str, Any], rows: int) -> bool:
    """A sequence has seven tokens that are trained, a turn at most three."""
    by_sequence = ("gspo", "geo_mean", "vespo", "sequence_ppo")
    if options.get("loss") == "kl_cov":
        return False
    return rows == 100 or options.get("loss") not in by_sequence


def test_what_is_masked_reaches_nothing() -> None:
    given, named, _ = case()
    want, _ = ap.linear_policy_loss(*given, **named)
    expected = torch.autograd.grad(want, given[0])[0]
    hidden, mask = given[0].detach().clone(), given[5]
    hidden[~mask] = math.nan
    given[0] = hidden.requires_grad_()
    given[3] = given[3].masked_fill(~mask, math.nan)
    got, metrics = ap.linear_policy_loss(*given, **named)
    assert torch.equal(got, want) and all(value.isfinite() for value in metrics.values())
    assert torch.equal(torch.autograd.grad(got, hidden)[0], expected)


def test_credit_stands_for_advantages() -> None:
    given, named, _ = case()
    rollouts = ap.Rollouts.from_padded(
        given[5], group_ids=[0, 0, 1, 1], outcome_rewards=[1.0, 0.0, 0.5, 0.0]
    )
    credit = ap.credit("grpo", rollouts)
    want, _ = ap.linear_policy_loss(*given[:4], credit.to_padded(), given[5], **named)
    got, _ = ap.linear_policy_loss(*given[:4], credit, given[5], **named)
    torch.testing.assert_close(got, want)


def test_top_entropy_takes_its_own() -> None:
    given, named, _ = case()
    logits = given[0] @ given[1].t() + named["bias"]
    log_probs, entropy = ap.token_log_probs(logits, given[2])
    want, _ = ap.policy_loss(log_probs, *given[3:], entropies=entropy, top_entropy=0.5)
    got, _ = ap.linear_policy_loss(*given, **named, top_entropy=0.5)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-13)


def test_nothing_to_train_on() -> None:
    given, named, _ = case()
    given[5] = torch.zeros_like(given[5])
    loss, _ = ap.linear_policy_loss(*given, **named)
    loss.backward()
    assert loss == 0 and (given[0].grad == 0).all() and (given[1].grad == 0).all()


def test_float16_under_a_scale_of_the_loss() -> None:
    """Gradients that float16 cannot hold are not rounded before they are scaled."""
    source = torch.Generator().manual_seed(3)
    count = 512
    hidden, weight = (torch.randn(n, H, generator=source).half() for n in (count, V))
    targets = torch.randint(V, (count,), generator=source)
    old, _ = ap.token_log_probs((hidden, weight), targets)
    others = targets, old, 1e-4 * torch.randn(count, generator=source), torch.ones(count)
    found = []
    for kind in (torch.float16, torch.float32):
        leaves = [x.to(kind).requires_grad_() for x in (hidden, weight)]
        loss, _ = ap.linear_policy_loss(*leaves, *others, offsets=[0, count])
        found.append(torch.autograd.grad(65536 * loss, leaves))
    for mine, theirs in zip(*found, strict=True):
        assert (mine.float() - theirs).norm() < 1e-3 * theirs.norm()


def test_gradient_is_taken_once() -> None:
    given, named, _ = case()
    loss, _ = ap.linear_policy_loss(*given, **named)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="once, expected mode='recompute'"):
        loss.backward()


def test_gradient_is_taken_again() -> None:
    """Where it is recomputed: by `retain_graph`, and by `gradcheck`."""
    given, named, _ = case()

    def loss(hidden: Any, weight: Any, bias: Any) -> Any:
        options = {"bias": bias, "entropy_coef": 0.1, "mode": "recompute", "memory_budget": V * 80}
        return ap.linear_policy_loss(hidden, weight, *given[2:], **options)[0]

    leaves = (*given[:2], named["bias"])
    once = loss(*leaves)
    first = torch.autograd.grad(once, leaves, retain_graph=True)
    assert all(map(torch.equal, first, torch.autograd.grad(once, leaves)))
    assert torch.autograd.gradcheck(loss, leaves)


def test_pieces_cut_no_span() -> None:
    assert pieces_within(5, 2, []) == [slice(0, 2), slice(2, 4), slice(4, 5)]
    ids = torch.tensor([7, 7, 3, 3, 3, 9])
    assert pieces_within(6, 3, [ids]) == [slice(0, 2), slice(2, 5), slice(5, 6)]
    assert pieces_within(6, 5, [ids]) == [slice(0, 5), slice(5, 6)]
    assert pieces_within(6, 2, [ids]) is None
    # A span that others interrupt holds them together.
    assert pieces_within(4, 3, [torch.tensor([0, 1, 0, 2])]) == [slice(0, 3), slice(3, 4)]
    assert pieces_within(0, 3, [torch.zeros(0).long()]) == []


def test_wrong_input() -> None:
    given, named, _ = case()
    with pytest.raises(InputError, match="old_log_probs: got shape"):
        ap.linear_policy_loss(*given[:3], given[3][:2], *given[4:], **named)
    with pytest.raises(OptionError, match="mode: got 'fast'"):
        ap.linear_policy_loss(*given, **named, mode="fast")
    with pytest.raises(OptionError, match="unknown option 'clip_hi'"):
        ap.linear_policy_loss(*given, **named, clip_hi=0.3)
    with pytest.raises(InputError, match="targets"):
        ap.linear_policy_loss(*given[:2], given[2] + V, *given[3:], **named)


def test_interpreted() -> None:
    """The same through the Triton kernels, which read the pieces' weights by row."""
    pytest.importorskip("triton", minversion="3.4")
    path = Path(__file__).parent / "linear_kernels.py"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(path)]
    env = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]

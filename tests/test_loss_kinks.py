"""Policy losses at their kinks: the gradient is one of the two one-sided slopes, by convention.

A single token with `old = -2`, so that `d = log_probs + 2`; widths of 0 and bounds of the
log ratio put the kinks where floating point hits them exactly.
"""

from __future__ import annotations

import math
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import apportion as ap  # noqa: E402

OLD, STEP = -2.0, 1e-6
EDGE = {"clip_low": 0.0, "clip_high": 0.0}  # both bounds at r = 1
FREE = {"log_ratio_bounds": None}


def loss(distance: float, advantage: float, options: dict[str, Any], reference: float) -> Any:
    log_probs = torch.tensor([[OLD + distance]], dtype=torch.float64, requires_grad=True)
    others = [torch.full((1, 1), v, dtype=torch.float64) for v in (OLD, advantage)]
    ref = torch.full((1, 1), reference, dtype=torch.float64)
    value, _ = ap.policy_loss(
        log_probs,
        *others,
        torch.ones(1, 1),
        ref_log_probs=ref,
        loss_agg_mode="token-sum",
        **options,
    )
    (slope,) = torch.autograd.grad(value, log_probs)
    return value.item(), slope.item()


# Options, d, A, and which slope is taken: of smaller d, of larger d, or their mean.
KINKS: list[tuple[dict[str, Any], float, float, str]] = [
    # On a bound the clamp lets the gradient through: that of -A r.
    ({"loss": "ppo", **EDGE}, 0.0, 1.0, "below"),
    ({"loss": "ppo", **EDGE}, 0.0, -1.0, "above"),
    ({"loss": "ppo", "clip_low": 0.0, "clip_high": 0.3}, 0.0, -1.0, "above"),
    ({"loss": "gspo", **EDGE}, 0.0, 1.0, "below"),
    ({"loss": "sequence_ppo", **EDGE}, 0.0, 1.0, "below"),
    ({"loss": "luspo", **EDGE}, 0.0, -1.0, "above"),
    # Bounds of the log ratio, inclusive.
    ({"loss": "ppo", "clip_high": None, "log_ratio_bounds": (-20.0, 1.5)}, 1.5, 1.0, "below"),
    ({"loss": "sapo", "log_ratio_bounds": (-1.0, 1.5)}, -1.0, 1.0, "above"),
    # The cap of the first term, and the dual clip, where two values tie: half of each.
    (
        {"loss": "ppo", "clip_low": None, "clip_high": None, "ratio_cap": 1.0, **FREE},
        0.0,
        1.0,
        "below",
    ),
    (
        {"loss": "ppo", "clip_low": None, "clip_high": None, "dual_clip": math.e, **FREE},
        1.0,
        -1.0,
        "mean",
    ),
    # In log space, on the bound.
    ({"loss": "geo_mean", "clip_low": 0.5, "clip_high": 0.5}, 0.5, 1.0, "below"),
    ({"loss": "geo_mean", "clip_low": 0.5, "clip_high": 0.5}, -0.5, -1.0, "above"),
    # |d| of the chosen token, and |a| of the penalty: 0, between -1 and 1.
    ({"loss": "kl_cov", "cov_kl_coef": 0.5}, 0.0, 1.0, "mean"),
    ({"loss": "gpg", "kl_coef": 0.5, "kl_kind": "abs"}, 1.0, 1.0, "mean"),
    # k3, where its input or output is clamped.
    ({"loss": "gpg", "kl_coef": 0.5, "kl_kind": "k3"}, 21.0, 1.0, "below"),
]


@pytest.mark.parametrize(("options", "distance", "advantage", "side"), KINKS)
def test_kink(options: dict[str, Any], distance: float, advantage: float, side: str) -> None:
    reference = OLD + 1.0  # the penalty's a is d - 1
    at, slope = loss(distance, advantage, options, reference)
    above = (loss(distance + STEP, advantage, options, reference)[0] - at) / STEP
    below = (at - loss(distance - STEP, advantage, options, reference)[0]) / STEP
    assert abs(above - below) > 1e-3 or options.get("kl_kind") == "k3", "no kink there"
    want = {"above": above, "below": below, "mean": (above + below) / 2}[side]
    scale = 1 + abs(above) + abs(below)
    assert slope == pytest.approx(want, abs=2e-5 * scale)


@pytest.mark.parametrize("name", ["cispo", "topr", "dppo_tv"])
def test_a_stopped_weight_at_its_bound(name: str) -> None:
    """No gradient passes the weight, so at the bound it is the bound times `-A`."""
    options = {"loss": name, "ratio_cap": 1.0}
    if name == "cispo":
        options |= {"clip_low": None, "clip_high": None}
    for distance in (0.0, 1e-9, -1e-9):
        _, slope = loss(distance, -1.0, options, OLD)
        assert slope == pytest.approx(1.0, abs=1e-8)


@pytest.mark.parametrize("grad", ["token", "mean"])
def test_a_token_that_has_become_impossible(grad: str) -> None:
    """`l = -inf`: a sequence's ratio is 0, whatever its gradient is taken by."""
    log_probs = torch.tensor([[-1.0, -math.inf], [-1.0, -0.9]], requires_grad=True)
    others = torch.full((2, 2), -1.0), torch.tensor([1.0, 1.0]), torch.ones(2, 2)
    given = {"loss": "gspo", "ratio_grad": grad, "clip_low": 0.5, "clip_high": 0.5}
    value, _ = ap.policy_loss(log_probs, *others, **given)
    assert value.item() == pytest.approx(-math.exp(0.05) / 2)  # max(-0, -0.5) of the other
    (slope,) = torch.autograd.grad(value, log_probs)
    assert slope.isfinite().all() and not slope[0].any()


def test_a_borrowed_gradient_where_it_is_infinite() -> None:
    """The value of k3, which is bounded, with the gradient of k2, which is not."""
    log_probs = torch.tensor([-1.0, -math.inf], requires_grad=True)
    value = ap.kl_penalty(log_probs, torch.tensor([-1.5, -1.0]), "k3+")
    assert value.tolist() == pytest.approx([math.exp(-0.5) - 0.5, 10.0])
    (slope,) = torch.autograd.grad(value.sum(), log_probs)
    assert slope.tolist() == [0.5, -math.inf]

"""Weights and rejection for a sampler that is not the trainer: by hand, and as losses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import apportion as ap  # noqa: E402

OLD = torch.tensor([[-1.0, -2.0, -0.5, -1.0], [-0.3, -0.2, -0.3, -9.0]], dtype=torch.float64)
SHIFT = torch.tensor([[0.2, -0.4, 1.0, 0.6], [0.1, 0.12, -0.15, 7.0]], dtype=torch.float64)
ROLLOUT = OLD - SHIFT  # x = SHIFT
MASK = torch.tensor([[1, 1, 0, 1], [1, 1, 1, 0]])


def weigh(**options: Any) -> np.ndarray:
    return ap.rollout_weights(OLD, ROLLOUT, MASK, high=None, **options)[0].numpy()


def test_levels() -> None:
    x, valid = SHIFT.numpy(), MASK.numpy() > 0
    logs = {
        "token": x,
        "sequence": np.repeat([[0.4], [0.07]], 4, 1),
        "geometric": np.repeat([[0.4 / 3], [0.07 / 3]], 4, 1),
        # Runs of the mask: tokens 0 and 1, token 3; then tokens 0 to 2.
        "segment": np.array([[-0.1, -0.1, 0, 0.6], [0.07 / 3] * 4]),
    }
    for level, want in logs.items():
        np.testing.assert_allclose(weigh(level=level), np.exp(want) * valid, rtol=1e-7)
    turns = torch.tensor([[1, 1, 1, 1], [2, 3, 3, 3]])
    own = np.array([[0.4 / 3] * 4, [0.1, -0.015, -0.015, 0]])
    np.testing.assert_allclose(weigh(level="segment", turns=turns), np.exp(own) * valid, rtol=1e-7)


def test_a_gate_leaves_the_weights_of_what_it_keeps() -> None:
    masked, _ = ap.rollout_weights(
        OLD, ROLLOUT, MASK, rule="mask", gate="segment", low=0.95, high=1.5
    )
    want = np.exp(SHIFT.numpy()) * [[0, 0, 0, 0], [1, 1, 1, 0]]
    np.testing.assert_allclose(masked, want, rtol=1e-7)


@pytest.mark.parametrize("kind", ["binary_kl", "tv"])
def test_divergence_gates(kind: str) -> None:
    p, q = (np.exp(x.numpy()).clip(1e-6, 1 - 1e-6) for x in (ROLLOUT, OLD))
    binary = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
    statistic = abs(p - q) if kind == "tv" else binary
    limit = float(np.median(statistic[MASK.numpy() > 0]))
    options = {"rule": "mask", "statistic": kind, "high": limit}
    got, _ = ap.rollout_weights(OLD, ROLLOUT, MASK, **options)
    want = np.exp(SHIFT.numpy()) * (statistic <= limit) * MASK.numpy()
    np.testing.assert_allclose(got, want, rtol=1e-7)
    means = (statistic * MASK.numpy()).sum(1) / MASK.numpy().sum(1)
    options["high"] = float(means.mean())
    got, _ = ap.rollout_weights(OLD, ROLLOUT, MASK, gate="geometric", **options)
    want = np.exp(SHIFT.numpy()) * (means <= means.mean())[:, None] * MASK.numpy()
    np.testing.assert_allclose(got, want, rtol=1e-7)


@pytest.mark.parametrize("limit", [1e-9, 0.01, 0.02, 0.1, 1.0])
def test_second_moment(limit: float) -> None:
    """M2PO: the largest are dropped one by one until the mean of the rest is small enough."""
    valid = [(float(SHIFT[i, t]) ** 2, i, t) for i, t in MASK.nonzero().tolist()]
    valid.sort(reverse=True)
    while len(valid) > 1 and np.mean([value for value, _, _ in valid]) >= limit:
        valid.pop(0)
    kept, metrics = ap.rollout_rejection(OLD, ROLLOUT, MASK, {"batch_m2": limit})
    want = {(i, t) for _, i, t in valid}
    assert {tuple(index) for index in kept.nonzero().tolist()} == want
    assert metrics["fraction"].item() == pytest.approx(1 - len(want) / 6)


def test_any_ratio_out_of_bounds_refuses_the_sequence() -> None:
    kept, _ = ap.rollout_rejection(OLD, ROLLOUT, MASK, {"seq_max_k1": (0.8, 1.6)})
    assert kept.tolist() == [[0, 0, 0, 0], [1, 1, 1, 0]]
    none = ap.rollout_rejection(OLD, ROLLOUT, MASK * 0, {"seq_max_k1": 1.1, "batch_m2": 0.1})
    assert not none[0].any()


def test_decoupled_ppo() -> None:
    """The ratio is to the proximal policy, the weight from the behaviour policy to it."""
    log_probs = (OLD + 0.3 * SHIFT).requires_grad_()
    advantages = torch.tensor([1.0, -1.0])
    weights, _ = ap.rollout_weights(OLD, ROLLOUT, MASK, rule="mask", high=1.5)
    loss, _ = ap.policy_loss(log_probs, OLD, advantages, MASK, rollout_weights=weights)
    ratio, behave = np.exp(0.3 * SHIFT.numpy()), np.exp(SHIFT.numpy())
    behave[behave > 1.5] = 0
    sign = np.array([[1.0], [-1.0]])
    token = np.maximum(-sign * ratio, -sign * ratio.clip(0.8, 1.2)) * behave
    assert loss.item() == pytest.approx((token * MASK.numpy()).sum() / 6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"level": "turn"}, "level: got 'turn', expected one of token, sequence, geometric"),
        ({"gate": "batch"}, "gate: got 'batch'"),
        ({"statistic": "kl"}, "statistic: got 'kl', expected one of ratio, binary_kl, tv"),
        ({"statistic": "tv"}, "statistic: got 'tv' with rule 'truncate'"),
        ({"statistic": "tv", "rule": "mask", "gate": "sequence"}, "and gate 'sequence'"),
        ({"low": 3.0}, "high: got 2.0, expected a number at least 3"),
        ({"level": "segment", "turns": torch.ones(2, 3)}, "turns: got torch.float32"),
    ],
)
def test_bad_weights(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ap.InputError, match=message):
        ap.rollout_weights(OLD, ROLLOUT, MASK, **options)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"batch_m2": (0.1, 0.2)}, r"rules\['batch_m2'\]: got .*, expected one upper bound"),
        ({"batch_m2": -1.0}, r"rules\['batch_m2'\]: got -1.0, expected a number above 0"),
        ({"token_k1": (2.0, 1.0)}, r"rules\['token_k1'\]: got 2.0, expected .* at most 1"),
    ],
)
def test_bad_rules(rules: dict[str, Any], message: str) -> None:
    with pytest.raises(ap.InputError, match=message):
        ap.rollout_rejection(OLD, ROLLOUT, MASK, rules)

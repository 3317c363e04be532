"""The policy loss: its values against loops, its gradient, its presets and metrics."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import apportion as ap  # noqa: E402
from apportion.kernels.reference.aggregate import MODES  # noqa: E402
from apportion.kernels.reference.batch import Spans, Tokens  # noqa: E402
from apportion.kernels.reference.trust_regions import (  # noqa: E402
    largest_by_covariance,
    largest_uncounted,
)
from apportion.loss.presets import PRESETS  # noqa: E402
from loss_batches import (  # noqa: E402
    LOSSES,
    PROMPTS,
    ROWS,
    WIDTH,
    batch,
    extras,
    prompt_counts,
    run,
    slope,
)
from oracles import losses as oracle  # noqa: E402


@pytest.mark.parametrize("level", ["token", "turn", "sequence"])
@pytest.mark.parametrize("mode", sorted(MODES))
@pytest.mark.parametrize("dual_clip", [None, 1.5])
def test_clipped_losses_are_the_loops(level: str, mode: str, dual_clip: float | None) -> None:
    for seed in range(5):
        inputs = batch(seed, spread=0.6)
        rng = np.random.default_rng(seed)
        low, high, scale = (rng.uniform(0.05, 0.3, (ROWS, WIDTH)) for _ in range(3))
        loss, _ = run(
            inputs,
            ratio=level,
            clip_low=torch.from_numpy(low),
            clip_high=torch.from_numpy(high),
            clip_scale=torch.from_numpy(scale),
            dual_clip=dual_clip,
            loss_agg_mode=mode,
            scale_factor=17.0,
            **prompt_counts(inputs["mask"]),
        )
        arrays = [inputs[n].detach().numpy() for n in list(inputs)[:4]]
        token_losses = oracle.clipped(*arrays, low * scale, high * scale, level, dual_clip)
        want = oracle.aggregate(token_losses, arrays[3], mode, 17.0, PROMPTS)
        assert loss.item() == pytest.approx(want, rel=1e-12)


def test_sapo_is_its_formula() -> None:
    inputs = batch(2)
    loss, _ = run(inputs, loss="sapo", loss_agg_mode="token-sum", tau_pos=0.9, tau_neg=1.05)
    log_probs, old, advantages, mask = (inputs[n].detach().numpy() for n in list(inputs)[:4])
    tau = np.where(advantages > 0, 0.9, 1.05)
    gate = 4 / tau / (1 + np.exp(-tau * (np.exp(log_probs - old) - 1)))
    assert loss.item() == pytest.approx(-(gate * advantages)[mask].sum(), rel=1e-13)


@pytest.mark.parametrize("share", [1e-6, 0.1, 0.4, 3.0])
def test_the_largest_covariances(share: float) -> None:
    """Chosen by their known count, and on a device without it."""
    inputs = batch(4)
    mask = inputs["mask"].reshape(-1).double()
    for valid in (mask, torch.ones_like(mask), torch.zeros_like(mask)):
        log_probs, advantages = (
            inputs[n].detach().reshape(-1) * valid for n in ("log_probs", "advantages")
        )
        tokens = Tokens(log_probs, log_probs, advantages, valid, Spans(ROWS, WIDTH))
        at = np.flatnonzero(valid)
        a, b = advantages.numpy()[at], log_probs.numpy()[at]
        count = min(max(1, int(share * len(at))), len(at))
        order = np.argsort(-(a - a.mean()) * (b - b.mean())) if count else at
        for choice in (largest_by_covariance, largest_uncounted):
            assert set(choice(tokens, share).nonzero()[:, 0].tolist()) == set(at[order[:count]])


STOPPED = ["cispo", "vespo", "topr", "dppo_tv", "dppo_kl"]  # their weights carry no gradient


@pytest.mark.parametrize("name", sorted(set(LOSSES) - set(STOPPED)))
def test_gradient(name: str) -> None:
    """Finite differences; at random inputs no token is at a kink."""
    inputs = {**batch(1), **extras(1)}
    options: dict[str, Any] = {"generator": torch.Generator().manual_seed(0)}
    if name == "clip_cov":
        options |= {"cov_low": 90.0, "cov_high": 91.0}  # drawing would differ between calls
    if name == "gspo":
        options["ratio_grad"] = "mean"
    if name.startswith("dppo"):
        options["stop_ratio"] = False

    def of(log_probs: Any) -> Any:
        return run({**inputs, "log_probs": log_probs}, loss=name, **options)[0]

    assert torch.autograd.gradcheck(of, inputs["log_probs"], eps=1e-7, atol=1e-6)


@pytest.mark.parametrize("kind", ["k1", "abs", "k2", "k3"])
@pytest.mark.parametrize("level", ["token", "turn", "sequence"])
def test_gradient_of_penalties_and_pooled_ratios(level: str, kind: str) -> None:
    """Through the mean, with the penalty times the ratio and straight-through beside it."""
    inputs = {**batch(2), **extras(2)}
    options = {"ratio": level, "ratio_grad": "mean", "kl_times_ratio": True, "kl_kind": kind}

    def of(log_probs: Any) -> Any:
        return run({**inputs, "log_probs": log_probs}, **options)[0]

    assert torch.autograd.gradcheck(of, inputs["log_probs"], eps=1e-7, atol=1e-6)
    reference = inputs["ref_log_probs"]
    penalty = ap.kl_penalty(inputs["log_probs"], reference, f"{kind}+").sum()
    want = (inputs["log_probs"] - reference).detach().numpy()
    np.testing.assert_allclose(slope(penalty, inputs["log_probs"]), want, rtol=1e-12)


@pytest.mark.parametrize("name", STOPPED)
def test_gradient_of_stopped_weights(name: str) -> None:
    """Where only `l` carries a gradient, the loss is linear in it: `grad * l` sums to it."""
    inputs = batch(3)
    loss, _ = run(inputs, loss=name)
    grad = slope(loss, inputs["log_probs"])
    assert (grad * inputs["log_probs"].detach().numpy()).sum() == pytest.approx(loss.item())


@pytest.mark.parametrize("level", ["turn", "sequence"])
def test_pooled_ratio_has_one_value_and_two_gradients(level: str) -> None:
    """Through the mean, or the token's own: equal sums over a span where A is constant."""
    inputs = batch(4)
    inputs["advantages"] = torch.ones(ROWS, dtype=torch.float64)
    options = {"loss": "gspo", "ratio": level, "clip_low": 0.9, "clip_high": 9.0}
    options["loss_agg_mode"] = "token-mean"
    token, _ = run(inputs, ratio_grad="token", **options)
    mean, _ = run(inputs, ratio_grad="mean", **options)
    assert token.item() == pytest.approx(mean.item(), rel=1e-14)
    a, b = (slope(loss, inputs["log_probs"]) for loss in (token, mean))
    np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(("like", "name"), [(t, n) for t in PRESETS for n in PRESETS[t]])
def test_every_preset_runs(like: str, name: str) -> None:
    inputs = batch(11)
    loss, metrics = run(inputs, like=like, loss=name)
    assert math.isfinite(loss.item())
    assert "approx_kl" in metrics
    assert np.isfinite(slope(loss, inputs["log_probs"])).all()


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_says_what_it_is(name: str) -> None:
    doc = ap.losses()[name].doc
    assert "`" in doc, f"{name}: no formula"
    for option in ap.losses()[name].options:
        assert option in doc or option.rsplit("_", 1)[0] in doc or option.startswith("clip"), option


def test_rejection_rules_combine() -> None:
    x = torch.tensor([[0.0, 2.0, -0.1], [0.1, 0.2, 0.0]])
    mask, zero = torch.ones(2, 3, dtype=torch.int64), torch.zeros(2, 3)
    rules: dict[str, Any] = {"token_k1": 2.0, "seq_max_k2": 1.9}
    kept, metrics = ap.rollout_rejection(x, zero, mask, rules)
    assert kept.tolist() == [[0, 0, 0], [1, 1, 1]]
    assert kept.dtype == torch.int64
    assert metrics["fraction"].item() == pytest.approx(0.5)
    with pytest.raises(ap.OptionError, match="unknown option 'token_k4'"):
        ap.rollout_rejection(x, zero, mask, {"token_k4": 1.0})
    with pytest.raises(ap.OptionError, match="expected one upper bound"):
        ap.rollout_rejection(x, zero, mask, {"token_k2": (0.1, 1.0)})


def test_prompts_are_averaged_over_their_tokens() -> None:
    inputs = batch(14)
    counts = prompt_counts(inputs["mask"])
    loss = ap.aggregate(inputs["log_probs"], inputs["mask"], loss_agg_mode="prompt-mean", **counts)
    values, mask = inputs["log_probs"].detach().numpy(), inputs["mask"].numpy()
    assert loss.item() == pytest.approx(
        oracle.aggregate(values, mask, "prompt-mean", 1.0, PROMPTS), rel=1e-12
    )

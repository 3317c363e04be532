"""Cases for the tests of the light op: a pairwise cover of its settings, held against float64.

Needs torch and Triton.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import apportion as ap
from apportion.kernels.dispatch import runs_on_triton
from apportion.kernels.reference.evaluate import Problem
from apportion.kernels.reference.evaluate import evaluate as plain
from apportion.kernels.triton import policy_loss as fused
from apportion.kernels.triton.surrogates import SURROGATES, covers
from apportion.kernels.triton.variants import pairwise
from apportion.loss.pose import pose

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ROWS, WIDTH = 5, 221  # two blocks, the last one not full

FACTORS: dict[str, Any] = {
    "loss": sorted(SURROGATES),
    "level": ("token", "turn", "segment", "sequence"),
    "ratio_grad": ("token", "mean"),
    "widths": ("none", "number", "tensor"),
    "scale": ("none", "number", "tensor"),
    "kl": ("none", "k1", "abs+", "k2", "k3", "k3+"),
    "times_ratio": (False, True),
    "weights": (False, True),
    "rule": (False, True),
    "bounds": (None, (-0.4, 0.5)),
    "packed": (False, True),
    "dtype": (torch.float32, torch.bfloat16),
}


def has(name: str, option: str) -> bool:
    return option in ap.losses()[name].options


def can_be(row: dict[str, Any]) -> bool:
    """What the kernel computes: GMPO has no pooled ratio."""
    return row.get("loss") != "geo_mean" or row.get("level", "token") == "token"


CASES = pairwise(FACTORS, can_be)


def batch(seed: int, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """Gaps, an empty row, `NaN` outside the mask."""
    source = torch.Generator().manual_seed(seed)

    def normal() -> torch.Tensor:
        return torch.randn(ROWS, WIDTH, generator=source)

    mask = torch.rand(ROWS, WIDTH, generator=source) < 0.8
    mask[2] = False
    old = -normal().abs() - 0.01
    given = {
        "log_probs": torch.minimum(old + 0.3 * normal(), torch.tensor(-1e-3)).to(dtype),
        "old_log_probs": old,
        "advantages": normal(),
        "ref_log_probs": old + 0.2 * normal(),
        "rollout_weights": 0.5 + torch.rand(ROWS, WIDTH, generator=source),
        "rollout_log_probs": old + 0.2 * normal(),
        "clip_low": 0.05 + 0.2 * torch.rand(ROWS, WIDTH, generator=source),
        "clip_high": 0.05 + 0.2 * torch.rand(ROWS, WIDTH, generator=source),
        "clip_scale": 0.5 + torch.rand(ROWS, WIDTH, generator=source),
    }
    given = {k: v.masked_fill(~mask, math.nan).to(DEVICE) for k, v in given.items()}
    return {**given, "mask": mask.to(DEVICE)}


def arguments(case: dict[str, Any], seed: int) -> dict[str, Any]:
    """A call of `policy_loss` for a row of the cover."""
    name, given = case["loss"], batch(seed, case["dtype"])
    call: dict[str, Any] = {
        k: given[k] for k in ("log_probs", "old_log_probs", "advantages", "mask")
    }
    call |= {"loss": name, "ratio": case["level"], "ratio_grad": case["ratio_grad"]}
    call["log_ratio_bounds"] = case["bounds"]
    for width in ("clip_low", "clip_high"):
        if has(name, width):
            call[width] = {"none": None, "number": 0.15, "tensor": given[width]}[case["widths"]]
    if has(name, "clip_scale"):
        call["clip_scale"] = {"none": None, "number": 0.7, "tensor": given["clip_scale"]}[
            case["scale"]
        ]
    if case["kl"] != "none":
        call |= {"kl_coef": 0.3, "kl_kind": case["kl"], "kl_times_ratio": case["times_ratio"]}
        call["ref_log_probs"] = given["ref_log_probs"]
    if case["weights"]:
        call["rollout_weights"] = given["rollout_weights"]
    if case["rule"]:
        call |= {"off_policy_threshold": 0.01, "rollout_log_probs": given["rollout_log_probs"]}
    if case["level"] == "turn":
        call["turns"] = torch.arange(ROWS * WIDTH, device=DEVICE).reshape(ROWS, WIDTH) // 7 % 11
    if case["level"] == "segment":
        cuts = range(0, ROWS * WIDTH + 1, WIDTH)
        call["segment_offsets"] = sorted({*cuts, 3, 100, 101, WIDTH + 150, 3 * WIDTH + 1})
    if has(name, "dual_clip") and case["rule"]:
        call["dual_clip"] = 1.1
    if has(name, "ratio_cap") and case["weights"]:
        call["ratio_cap"] = 1.2
    if has(name, "outside") and case["rule"]:
        call["outside"] = "drop"
    if has(name, "cov_ratio"):
        call["cov_ratio"] = 0.1  # of 900 tokens
    if has(name, "cov_low"):
        call |= {"cov_low": -1.0, "cov_high": 2.0}
    if case["packed"]:
        call = {k: v.reshape(-1) if isinstance(v, torch.Tensor) else v for k, v in call.items()}
        call["offsets"] = list(range(0, ROWS * WIDTH + 1, WIDTH))
    return call


def doubled(call: dict[str, Any]) -> dict[str, Any]:
    """The same call in float64, on the processor."""
    return {
        k: (v.cpu().double() if v.is_floating_point() else v.cpu())
        if isinstance(v, torch.Tensor)
        else v
        for k, v in call.items()
    }


def problem(call: dict[str, Any], **how: Any) -> tuple[torch.Tensor, Problem]:
    call = {**call, "log_probs": call["log_probs"].detach().clone().requires_grad_()}
    names = ("log_probs", "old_log_probs", "advantages", "mask")
    others = {k: v for k, v in call.items() if k not in names}
    others["generator"] = torch.Generator().manual_seed(9)
    return call["log_probs"], pose(tuple(call[n] for n in names), others, **how)[0]


def compare(call: dict[str, Any], tolerance: float = 2e-5) -> None:
    by_batch = ap.losses()[call["loss"]].reads == "batch"
    leaf, given = problem(call, unmasked="off_policy_threshold" not in call and not by_batch)
    assert runs_on_triton(given.tokens.log_probs) and covers(given)
    exact_leaf, exact = problem(doubled(call))
    loss, metrics = fused.evaluate(given)
    want, want_metrics = plain(exact)
    scale = float(exact.tokens.advantages.abs().mean()) + abs(want.item())
    assert loss.item() == pytest.approx(want.item(), rel=tolerance, abs=tolerance * scale)
    (3 * loss).backward()  # the upstream gradient reaches the product
    (3 * want).backward()
    assert leaf.grad is not None and exact_leaf.grad is not None
    got, slope = leaf.grad.cpu().double(), exact_leaf.grad
    assert leaf.grad.dtype == leaf.dtype and not got[~call["mask"].cpu()].any()
    rounding = 1 / 128 if leaf.dtype == torch.bfloat16 else tolerance
    torch.testing.assert_close(got, slope, rtol=2 * rounding, atol=2e-5 * slope.abs().max().item())
    assert metrics.keys() == want_metrics.keys()
    for name, value in metrics.items():
        assert not value.requires_grad
        assert value.item() == pytest.approx(want_metrics[name].item(), rel=1e-4, abs=1e-5), name

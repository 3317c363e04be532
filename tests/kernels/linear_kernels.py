"""A head through the Triton kernels against plain torch: run by `test_linear_loss.py`, interpreted.

On a machine with a GPU the same tests run there, compiled:
`pytest tests/kernels/linear_kernels.py`.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_linear_loss import LOSSES, can_be_fused, case

import apportion as ap
from apportion.kernels.dispatch import runs_on_triton

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.mark.parametrize("options", [o for o in LOSSES if can_be_fused(o, 100)], ids=str)
@pytest.mark.parametrize("mode", ["fused", "recompute"])
def test_as_plain_torch(options: dict[str, Any], mode: str) -> None:
    given, named, ref = case()  # in float64: plain torch on every device
    if "kl_coef" in options:
        options = {**options, "ref_log_probs": ref}
    want, metrics = ap.linear_policy_loss(*given, **named, **options)
    expected = torch.autograd.grad(want, given[:2])

    def single(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        value = value.detach().to(DEVICE)
        return value.float() if value.is_floating_point() else value

    own, extra = [single(x) for x in given], {k: single(v) for k, v in named.items()}
    assert runs_on_triton(own[0])
    leaves = [x.requires_grad_() for x in own[:2]]
    more = {k: single(v) for k, v in options.items()}
    got, found = ap.linear_policy_loss(*own, **extra, **more, mode=mode, memory_budget=40 * 6 * 8)
    torch.testing.assert_close(got.cpu().double(), want, rtol=1e-5, atol=1e-6)
    for name, value in metrics.items():
        torch.testing.assert_close(found[name].cpu().double(), value, rtol=1e-5, atol=1e-6)
    for mine, theirs in zip(torch.autograd.grad(got, leaves), expected, strict=True):
        torch.testing.assert_close(mine.cpu().double(), theirs, rtol=1e-4, atol=1e-6)

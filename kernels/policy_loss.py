"""Where a policy loss is computed: Triton on a GPU where it covers the loss, else plain torch."""

from __future__ import annotations

from apportion.kernels.dispatch import runs_on_triton
from apportion.kernels.reference import evaluate as plain
from apportion.kernels.reference.batch import Tensor
from apportion.kernels.reference.evaluate import Metrics, Problem


def evaluate(problem: Problem) -> tuple[Tensor, Metrics]:
    """The loss, a scalar, and detached metrics: the same numbers wherever they come from."""
    if runs_on_triton(problem.tokens.log_probs):
        from apportion.kernels.triton import policy_loss as fused
        from apportion.kernels.triton.surrogates import covers

        if covers(problem):
            return fused.evaluate(problem)
    return plain.evaluate(problem)

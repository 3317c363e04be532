"""Where a policy loss is computed: Triton on a GPU where it covers the loss, else plain torch."""

from __future__ import annotations

from apportion.kernels.dispatch import runs_on_triton
from apportion.kernels.reference import evaluate as plain
from apportion.kernels.reference.batch import Tensor
from apportion.kernels.reference.evaluate import Metrics, Problem


def is_fused(problem: Problem) -> bool:
    """Whether the Triton kernels compute this problem."""
    if not runs_on_triton(problem.tokens.log_probs):
        return False
    from apportion.kernels.triton.surrogates import covers

    return covers(problem)


def evaluate(problem: Problem) -> tuple[Tensor, Metrics]:
    """The loss, a scalar, and detached metrics: the same numbers wherever they come from."""
    if not is_fused(problem):
        return plain.evaluate(problem)
    from apportion.kernels.triton import policy_loss as fused

    return fused.evaluate(problem)

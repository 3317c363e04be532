"""Where a policy loss is computed: Triton on a GPU where it covers the loss, else plain torch,
on a processor in pieces."""

from __future__ import annotations

from apportion.kernels import pieces
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
    fused = is_fused(problem)
    if not fused and pieces.covers(problem):
        return pieces.evaluate(problem)
    # The kernels read within the mask alone, but for what is chosen among all tokens.
    if problem.is_raw and (not fused or problem.entry.reads == "batch"):
        problem = plain.masked(problem)
    if not fused:
        return plain.evaluate(problem)
    from apportion.kernels.triton import policy_loss as triton

    return triton.evaluate(problem)

"""A critic's loss. Needs torch; checks and aggregation are those of `loss`."""

from __future__ import annotations

from typing import Any

from apportion.credit import Credit
from apportion.loss.inputs import Given, check_number, check_options

# isort: split
# inputs comes first: it says what to install where torch is missing.
import torch

from apportion.kernels.reference import batch as spans
from apportion.kernels.reference.bounds import bound, exceeds, larger
from apportion.loss.settings import AGGREGATION, aggregation

Tensor = Any
Metrics = dict[str, Tensor]


def value_loss(
    values: Tensor,
    old_values: Tensor,
    returns: Tensor | Credit,
    mask: Tensor,
    *,
    clip: float | None = 0.2,
    offsets: Tensor | None = None,
    num_tokens: float | None = None,
    num_sequences: float | None = None,
    **options: Any,
) -> tuple[Tensor, Metrics]:
    """A critic's loss: `max((v - G)^2, (clip(v, old - clip, old + clip) - G)^2) / 2`.

    Args:
        values: v of each token, `(B, T)`, or `(N,)` with `offsets`.
        old_values: those before the update, of the same shape.
        returns: G, of the same shape, or a `Credit` that has them, as `gae`'s.
        mask: which tokens are trained; also `offsets`, `num_tokens` and `num_sequences`: as
            in `policy_loss`.
        clip: `None` clips nothing.
        offsets: starts of the sequences in packed tokens.
        num_tokens: valid tokens of the whole batch.
        num_sequences: its sequences.
        **options: `loss_agg_mode` and those that go with it.

    Returns:
        The loss, and the metric `clip_fraction`: the share of tokens where the clipped term
        is the larger. Both are 0 where all is masked.

    Raises:
        OptionError: an unknown option, or one out of its range.
        InputError: shapes, types, devices or a mask that do not fit.
    """
    check_options("value_loss", options, AGGREGATION)
    check_number("clip", clip, least=0.0, none=True)
    given = Given(values, mask, offsets, returns)
    target, before = given.advantages("returns"), given.take("old_values", old_values).detach()
    first = (given.own - target).square()
    loss, fraction = first, torch.zeros_like(first)
    if clip is not None:
        second = (bound(given.own, before - clip, before + clip) - target).square()
        loss, fraction = larger(first, second), exceeds(second, first)
    how = aggregation(options, given, num_tokens, num_sequences)
    metrics = {"clip_fraction": spans.masked_mean(fraction, given.mask)}
    return 0.5 * (loss * how.weights(given.mask, given.rows)).sum(), metrics

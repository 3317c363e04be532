"""The policy loss: log-probabilities and credit in, one differentiable number out.

Needs torch (`pip install 'apportion[torch]'`); `import apportion` alone does not import
it. Arguments are settled in `pose`; the formulas are in `apportion.kernels.reference`, and on
a GPU in `apportion.kernels.triton`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from apportion.credit import Credit
from apportion.errors import InputError
from apportion.loss.inputs import Given, check_options

# isort: split
# inputs comes first: it says what to install where torch is missing.
import torch

from apportion.kernels.reference import registry
from apportion.loss.pose import Metrics, has_rules, pose, solve
from apportion.loss.settings import AGGREGATION, aggregation, penalty
from apportion.loss.tensors import as_mask, as_tensor, check_floats

Tensor = Any


def policy_loss(
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor | Credit,
    mask: Tensor,
    *,
    loss: str | None = None,
    like: str | None = None,
    offsets: Tensor | None = None,
    turns: Tensor | str | None = None,
    segment_offsets: Tensor | None = None,
    ref_log_probs: Tensor | None = None,
    rollout_log_probs: Tensor | None = None,
    rollout_weights: Tensor | None = None,
    entropies: Tensor | None = None,
    generator: Any = None,
    num_tokens: float | None = None,
    num_sequences: float | None = None,
    **options: Any,
) -> tuple[Tensor, Metrics]:
    """The loss of a policy on sampled tokens, and metrics without a gradient.

    Whatever stands outside the mask, NaN included, reaches neither value nor gradient.
    Computed in float32, in float64 where `log_probs` is.

    Args:
        log_probs: of the policy that is trained, `(B, T)`, or `(N,)` with `offsets`.
        old_log_probs: of the policy that the ratio is taken to, of the same shape.
        advantages: of each token, or `(B,)` of each sequence, or a `Credit`, whose
            clip scale, loss mask and turns are then used too.
        mask: which tokens are trained: booleans, or 0 and 1.
        loss: a name in `apportion.losses()`, default `"ppo"`; with `like`, the trainer's
            own name for it, default the trainer's.
        like: `"verl"`, `"trl"`, `"openrlhf"` or `"skyrl"`: that trainer's settings,
            exactly. Options override them.
        offsets: `(B + 1,)` starts of the sequences in packed tokens.
        turns: for `ratio="turn"`: an id for each token; or `"equal-advantages"`, runs of
            one advantage. Default: the credit's turns, else runs of the mask.
        segment_offsets: for `ratio="segment"`: `(S + 1,)` starts of the segments in the
            tokens, read row by row where they are padded; none crosses a sequence's end.
        ref_log_probs: of the reference policy; needed where `kl_coef` is not 0.
        rollout_log_probs: as the sampler gave them, for `off_policy_threshold`.
        rollout_weights: `apportion.rollout_weights`, multiplying the token losses.
        entropies: of each token; needed by `top_entropy`.
        generator: a `torch.Generator` for `clip_cov`, which draws tokens.
        num_tokens: valid tokens of the whole batch, over micro-batches and ranks.
        num_sequences: its sequences. With both, micro-batches' losses add up.
        **options: those of the loss (`apportion.losses()[name].options`), and:
            `ratio`: `"token"`, `"turn"`, `"segment"` or `"sequence"`; `ratio_grad`:
            `"token"` or `"mean"`, how a pooled ratio is differentiated;
            `log_ratio_bounds`; `loss_agg_mode`, `dp_size`, `scale_factor`, `count_rows`,
            `row_eps`, `count_floor`, `num_prompts`, `prompt_tokens`: see `docs/loss.md`;
            `kl_coef`, `kl_kind`, `kl_times_ratio`: a KL penalty added to the token
            losses; `off_policy_threshold`: off-policy sequence masking; `top_entropy`:
            the share of tokens that is trained.
            `clip_low`, `clip_high` and `clip_scale` may be given for each token.

    Returns:
        The loss, a scalar, and metrics by name, each a detached scalar on the device:
        `approx_kl`, what the loss reports, such as `clip_fraction`, `kl` with a penalty and
        `rollout_kl` with `rollout_log_probs`. Where all is masked the loss is 0 with a
        gradient of 0; with `like="verl"` and `"openrlhf"` it is NaN, as theirs.

    Raises:
        OptionError: unknown loss, trainer or option, or a value out of its range.
        InputError: shapes, types, devices or a mask that do not fit.
    """
    given = {
        "loss": loss,
        "like": like,
        "offsets": offsets,
        "turns": turns,
        "segment_offsets": segment_offsets,
        "ref_log_probs": ref_log_probs,
        "rollout_log_probs": rollout_log_probs,
        "rollout_weights": rollout_weights,
        "entropies": entropies,
        "generator": generator,
        "num_tokens": num_tokens,
        "num_sequences": num_sequences,
        **options,
    }
    tensors = log_probs, old_log_probs, advantages, mask
    # As a rule what computes the loss reads within the mask alone, which spares passes here.
    return solve(*pose(tensors, given, unmasked=not has_rules(given)))


def losses() -> Mapping[str, registry.Loss]:
    """Every policy loss by name: its options with defaults, and its documentation."""
    return dict(registry.LOSSES)


def aggregate(
    token_losses: Tensor,
    mask: Tensor,
    *,
    offsets: Tensor | None = None,
    num_tokens: float | None = None,
    num_sequences: float | None = None,
    **options: Any,
) -> Tensor:
    """Token losses of your own as one number, by any `loss_agg_mode`.

    Args:
        token_losses: `(B, T)`, or `(N,)` with `offsets`.
        mask: which tokens count; what stands outside reaches nothing.
        offsets: as in `policy_loss`, and so `num_tokens` and `num_sequences`.
        num_tokens: valid tokens of the whole batch.
        num_sequences: its sequences.
        **options: `loss_agg_mode` and those that go with it; see `docs/loss.md`.

    Returns:
        A scalar; 0 where all is masked.

    Raises:
        OptionError: an unknown option, or one out of its range.
        InputError: shapes, types, devices or a mask that do not fit.
    """
    check_options("aggregate", options, AGGREGATION)
    given = Given(token_losses, mask, offsets, None)
    how = aggregation(options, given, num_tokens, num_sequences)
    return (given.own * how.weights(given.mask, given.rows)).sum()


def kl_penalty(
    log_probs: Tensor,
    ref_log_probs: Tensor,
    kind: str = "k3",
    *,
    like: str | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """An estimate of the KL divergence from the reference for each token, any shape.

    In the loss it is `kl_coef`; in the reward, it is subtracted from `token_rewards`.

    Args:
        log_probs: of the policy.
        ref_log_probs: of the reference, of the same shape.
        kind: `"k1"`, `"abs"`, `"k2"` or `"k3"`, or verl's names for them. A `+` behind it
            takes the value of the estimator and the gradient of `k2`.
        like: whose clamps: `"verl"` (the default), `"trl"`, `"openrlhf"` or `"skyrl"`.
        mask: of the same shape; outside it the penalty is 0, whatever stands there.

    Returns:
        The penalty of each token, in the shape given, differentiable in `log_probs`; in float32, in
        float64 where `log_probs` is.

    Raises:
        DtypeError: log-probabilities that are no floats.
        OptionError: an unknown kind or trainer.
        InputError: shapes or devices that differ, a mask of other values than 0 and 1.
    """
    check_floats("log_probs", log_probs)
    reference = as_tensor("ref_log_probs", ref_log_probs, log_probs.device)
    if reference.shape != log_probs.shape:
        got, expected = tuple(reference.shape), tuple(log_probs.shape)
        raise InputError(f"ref_log_probs: got shape {got}, expected {expected} as log_probs")
    # In half precision exp(-a) + a - 1 of a small a is 0.
    wide = torch.float64 if log_probs.dtype == torch.float64 else torch.float32
    pair = log_probs.to(wide), reference.to(wide)
    if mask is not None:
        valid = as_mask("mask", mask, log_probs.shape, log_probs.device, "log_probs")
        zero = pair[0].new_zeros(())
        pair = torch.where(valid, pair[0], zero), torch.where(valid, pair[1], zero)
    return penalty(kind, like)(*pair)

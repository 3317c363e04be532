"""A policy loss posed and solved: its arguments as a `Problem`, then its value. Part of `loss`.

Depends on `inputs` and `settings`; who computes is decided in `apportion.kernels.policy_loss`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from apportion.credit import Credit
from apportion.errors import DtypeError, InputError
from apportion.loss.inputs import Given

# isort: split
# inputs comes first: it says what to install where torch is missing.
import torch

from apportion.kernels.policy_loss import evaluate
from apportion.kernels.reference import batch as spans
from apportion.kernels.reference import rollout
from apportion.kernels.reference.evaluate import Problem
from apportion.loss.settings import aggregation, around, loss_options, penalty, reference, settle

Tensor = Any
Metrics = dict[str, Tensor]

BESIDE = (
    *("offsets", "turns", "segment_offsets", "ref_log_probs", "rollout_log_probs"),
    *("rollout_weights", "entropies", "generator", "num_tokens", "num_sequences"),
)
"""What `policy_loss` takes by name and is no setting."""


def pose(
    tensors: tuple[Tensor, Tensor, Tensor | Credit, Tensor],
    named: Mapping[str, Any],
    unmasked: bool = False,
) -> tuple[Problem, Tensor | None]:
    """The arguments of `policy_loss`, checked and settled; and the sampler's log-probabilities.

    `tensors` are its first four, `named` are all that it takes by name. `unmasked` leaves what
    stands outside the mask where it is: `Problem.is_raw`.
    """
    log_probs, old_log_probs, advantages, mask = tensors
    options = dict(named)
    x = {name: options.pop(name, None) for name in BESIDE}
    like = options.pop("like", None)
    entry, settings = settle(options.pop("loss", None), like, options)
    own = around(settings)
    if x["generator"] is not None and not isinstance(x["generator"], torch.Generator):
        got = type(x["generator"]).__name__
        raise DtypeError(f"generator: got {got}, expected a torch.Generator")
    given = Given(log_probs, mask, x["offsets"], advantages, unmasked)
    sampler = given.maybe("rollout_log_probs", x["rollout_log_probs"])
    tokens = spans.Tokens(
        log_probs=given.own,
        old_log_probs=given.take("old_log_probs", old_log_probs).detach(),
        advantages=given.advantages(),
        mask=given.mask,
        rows=given.rows,
        segments=given.segments(own["ratio"], x["turns"], x["segment_offsets"]),
        rollout_weights=given.maybe("rollout_weights", x["rollout_weights"], fill=1.0),
        generator=x["generator"],
    )
    problem = Problem(
        entry=entry,
        options=loss_options(entry, settings, given),
        tokens=tokens,
        level=own["ratio"],
        ratio_grad=own["ratio_grad"],
        log_ratio_bounds=own["log_ratio_bounds"],
        aggregation=aggregation(settings, given, x["num_tokens"], x["num_sequences"]),
        keep=_keep(tokens, own, sampler, given.maybe("entropies", x["entropies"])),
        penalty=penalty(own["kl_kind"], like) if own["kl_coef"] else None,
        kl_coef=own["kl_coef"],
        kl_times_ratio=own["kl_times_ratio"],
        ref_log_probs=reference(given, own["kl_coef"], x["ref_log_probs"]),
        is_raw=unmasked,
    )
    return problem, sampler


def solve(problem: Problem, sampler: Tensor | None) -> tuple[Tensor, Metrics]:
    """The loss, and its metrics."""
    value, metrics = evaluate(problem)
    if sampler is not None:
        tokens = problem.tokens
        metrics["rollout_kl"] = spans.masked_mean(sampler - tokens.old_log_probs, tokens.mask)
    return value, metrics


def has_rules(given: Mapping[str, Any]) -> bool:
    """Whether something beside the loss reads the tensors."""
    names = ("rollout_log_probs", "off_policy_threshold", "top_entropy")
    return any(given.get(name) is not None for name in names)


def _keep(
    tokens: spans.Tokens,
    settings: Mapping[str, Any],
    sampler: Tensor | None,
    entropies: Tensor | None,
) -> Tensor | None:
    """1 for the tokens that off-policy and entropy rules leave in; `None` without a rule."""
    keep = None
    threshold, share = settings["off_policy_threshold"], settings["top_entropy"]
    if threshold is not None:
        ratio = tokens.log_ratio if sampler is None else tokens.log_probs - sampler
        keep = rollout.keep_on_policy(tokens.advantages, ratio, tokens.mask, tokens.rows, threshold)
    if share is not None:
        if entropies is None:
            raise InputError("entropies: got none, expected them where top_entropy is given")
        certain = rollout.keep_uncertain(entropies, tokens.mask, share)
        keep = certain if keep is None else keep * certain
    return keep

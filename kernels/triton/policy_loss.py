"""The light op on a GPU: a policy loss from its `Problem`, in two launches.

Depends on `token_loss_op` and on `kernels.reference`. Arguments were checked before.
"""

from __future__ import annotations

from typing import Any

import torch

from apportion.kernels.reference.batch import Spans, Tensor
from apportion.kernels.reference.evaluate import Metrics, Problem, terms_of
from apportion.kernels.triton.surrogates import SURROGATES, Surrogate, limits
from apportion.kernels.triton.token_loss_op import FLAGS, INPUTS, NUMBERS, token_loss


def evaluate(problem: Problem) -> tuple[Tensor, Metrics]:
    """As `kernels.reference.evaluate`, for problems that `surrogates.covers`."""
    tokens, penalty = problem.tokens, problem.penalty
    surrogate = SURROGATES[problem.entry.name](problem.options)
    spans = tokens.spans(problem.level)
    segments = _layout(spans)
    inputs = _inputs(problem) | {
        "chosen": _chosen(problem, surrogate),
        "row_weights": problem.aggregation.row_weights(tokens.mask, tokens.rows).float(),
        **{f"row_{name}": value for name, value in _layout(tokens.rows).items()},
        **{f"segment_{name}": value for name, value in segments.items()},
    }
    numbers = _numbers(problem) | {f"c{i}": v for i, v in enumerate(surrogate.constants)}
    flags = _flags(problem)
    offsets = segments["offsets"]
    count = 0 if spans is None else spans.count if offsets is None else len(offsets) - 1
    loss, sums, _ = token_loss(
        tokens.log_probs,
        [inputs.get(name) for name in INPUTS],
        surrogate.name,
        surrogate.row_term,
        "" if spans is None else problem.ratio_grad,
        "" if penalty is None else penalty.name,
        [float(numbers.get(name, 0.0)) for name in NUMBERS],
        [flags[name] for name in FLAGS],
        [tokens.rows.width or 0, count, 0 if spans is None else spans.width or 0],
    )
    return loss, _named(sums.detach(), surrogate, tokens.rows.count, penalty is not None)


def _chosen(problem: Problem, surrogate: Surrogate) -> Tensor | None:
    if surrogate.chooses is None:
        return None
    with torch.no_grad():
        return surrogate.chooses(terms_of(problem), problem.options)


def _inputs(problem: Problem) -> dict[str, Tensor | None]:
    tokens, own = problem.tokens, problem.options
    weighed = problem.entry.weighs_itself
    factors = [problem.keep, None if weighed else tokens.rollout_weights]
    given = [factor for factor in factors if factor is not None]
    return {
        "old_log_probs": tokens.old_log_probs,
        "advantages": tokens.advantages,
        "mask": tokens.mask,
        "low": _tensor(own.get("clip_low")),
        "high": _tensor(own.get("clip_high")),
        "scale": _tensor(own.get("clip_scale")),
        "multiplier": given[0] * given[1] if len(given) == 2 else next(iter(given), None),
        "weights": tokens.rollout_weights if weighed else None,
        "reference": problem.ref_log_probs,
    }


def _numbers(problem: Problem) -> dict[str, float]:
    own, penalty = problem.options, problem.penalty
    least, most = limits(problem.log_ratio_bounds)
    widths = {name: own.get(f"clip_{name}") for name in ("low", "high", "scale")}
    return {
        **{k: v for k, v in widths.items() if isinstance(v, (int, float))},
        "least": least,
        "most": most,
        "cap": limits((None, own.get("ratio_cap")))[1],
        "dual": own.get("dual_clip") or 0.0,
        "kl_coef": problem.kl_coef,
        "kl_input": limits((None, penalty.input_bound if penalty else None))[1],
        "kl_output": limits((None, penalty.limit if penalty else None))[1],
    }


def _flags(problem: Problem) -> dict[str, bool]:
    own, penalty = problem.options, problem.penalty
    return {
        "bounded": problem.log_ratio_bounds is not None,
        "low": own.get("clip_low") is not None,
        "high": own.get("clip_high") is not None,
        "scale": own.get("clip_scale") is not None,
        "dual": own.get("dual_clip") is not None,
        "kl_plus": penalty is not None and penalty.is_straight_through,
        "kl_times_ratio": penalty is not None and problem.kl_times_ratio,
    }


def _named(sums: Tensor, surrogate: Surrogate, rows: int, has_penalty: bool) -> Metrics:
    """The metrics from the sums of the kernel, in the order of its `QUANTITIES`."""
    means = sums[2:] / (sums[1] + 1e-8)
    own = sums[3:5] / rows if surrogate.by_row else means[1:3]
    metrics = {"approx_kl": means[0], **dict(zip(surrogate.metrics, own, strict=False))}
    return {**metrics, "kl": means[3]} if has_penalty else metrics


def _tensor(value: Any) -> Tensor | None:
    return value if isinstance(value, torch.Tensor) else None


def _layout(spans: Spans | None) -> dict[str, Tensor | None]:
    """Ids of the tokens, starts of the spans, and the order in which tokens lie in them.

    Padded rows need none of it. How many spans there are is read from the device where
    they are known by ids alone.
    """
    ids = offsets = order = None
    if spans is not None and spans.width is None:
        ids, offsets = spans.ids, spans.offsets
        if offsets is None:
            order = None if spans.are_runs else torch.argsort(ids, stable=True)
            in_order = ids if order is None else ids[order]
            count = int(ids.max()) + 1 if len(ids) else 0
            starts = torch.arange(count + 1, device=ids.device)
            offsets = torch.searchsorted(in_order, starts)
    return {"ids": ids, "offsets": offsets, "order": order}

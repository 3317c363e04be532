"""The policy loss of hidden states and a head, fused where that wins. Needs torch.

Depends on `linear` and `loss`. The sums are in `apportion.kernels.linear`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from apportion.credit import Credit
from apportion.errors import InputError, OptionError
from apportion.loss.head import Linear, checked
from apportion.loss.inputs import check_choice, check_number
from apportion.loss.policy import policy_loss
from apportion.loss.pose import Metrics, pose, solve
from apportion.loss.rows import Asked
from apportion.loss.tensors import check_floats

# isort: split
# linear comes first: it says what to install where torch is missing.
import torch

from apportion.kernels.linear.fused import Objective, loss_and_entropy
from apportion.kernels.linear.plan import slices
from apportion.kernels.reference.aggregate import Aggregation
from apportion.kernels.reference.batch import Spans, masked_mean, row_ids
from apportion.kernels.reference.evaluate import Problem

Tensor = Any
MODES = ("auto", "fused", "recompute", "frozen")
BREAK_EVEN = {"cpu": 64, "other": 736}
"""Tokens of a piece from which one pass costs less than recomputation: with fewer, adding
to the head's gradient takes longer than a matrix product. `4 FLOP/s / (bytes/s)`."""


def linear_policy_loss(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor | Credit,
    mask: Tensor,
    *,
    bias: Tensor | None = None,
    temperature: float | Tensor = 1.0,
    softcap: float | None = None,
    logit_scale: float = 1.0,
    entropy_coef: float = 0.0,
    batch_invariant: bool = False,
    mode: str = "auto",
    memory_budget: int | None = None,
    check: bool = True,
    **options: Any,
) -> tuple[Tensor, Metrics]:
    """`policy_loss` of `token_log_probs((hidden, weight), targets)`, in as few passes as can be.

    Same numbers, gradients included, up to the order of sums. Tokens outside the mask are
    not computed.

    Args:
        hidden: `(N, H)` with `offsets`, or `(B, T, H)`: the states that predict `targets`.
        weight: the head, `(V, H)`, in the type of `hidden`.
        targets: `(N,)` or `(B, T)`, integers.
        old_log_probs: as in `policy_loss`; also `advantages` and `mask`.
        advantages: of each token or sequence, or a `Credit`.
        mask: which tokens are trained.
        bias: of the head, `(V,)`.
        temperature: as in `token_log_probs`; also `softcap` and `logit_scale`.
        softcap: Gemma's `final_logit_softcapping`.
        logit_scale: multiplies the logits before all else.
        entropy_coef: times the entropy, aggregated as the loss is, is subtracted.
        batch_invariant: as in `token_log_probs`; the two calls are then made.
        mode: `"fused"`: some tokens after another, each with its loss; for losses in which
            a token depends on itself alone, or on sequences (turns, segments) that are
            not longer than what the budget holds. `"recompute"` and `"frozen"`: the two
            calls, one after the other, as `token_log_probs` says. `"auto"`: fused where
            it can be and its pieces are long enough, else the two calls; in compiled code
            and in float16 these. The gradient of `"fused"` can be taken once.
        memory_budget: as in `token_log_probs`.
        check: as in `token_log_probs`.
        **options: everything that `policy_loss` takes by name.

    Returns:
        The loss and the metrics of `policy_loss`, and `entropy`, its mean over the mask.

    Raises:
        OptionError: a mode that cannot do this loss, or an option out of its range.
        InputError: shapes, types, devices or a mask that do not fit.
    """
    check_choice("mode", mode, MODES)
    check_number("entropy_coef", entropy_coef)
    if batch_invariant and mode == "fused":
        raise OptionError("batch_invariant: got True, expected False with mode='fused'")
    compiling = torch.compiler.is_compiling()
    if compiling and mode == "fused":
        raise OptionError("mode: got 'fused', expected 'auto' or 'recompute' in compiled code")
    stand_in = _stand_in(hidden, old_log_probs)
    posed = dict(options)
    if options.get("top_entropy") is not None and options.get("entropies") is None:
        posed["entropies"] = torch.zeros_like(stand_in)
    problem, sampler = pose((stand_in, old_log_probs, advantages, mask), posed)
    tokens = problem.tokens
    within = (tokens.mask != 0).reshape(stand_in.shape)
    asked = Asked(targets, within, temperature, softcap, logit_scale, batch_invariant, check)
    linear = checked((hidden, weight, bias), asked, memory_budget)
    weights = problem.aggregation.weights(tokens.mask, tokens.rows)
    # In one pass the sizes of pieces depend on values: compiled code has none such.
    pieces = None if compiling else _pieces(problem, linear, mode)
    if pieces is not None:
        fused = _Fused(problem, sampler, linear, weights, entropy_coef)
        objective = Objective(pieces, fused.slope, fused.value)
        loss, entropies = loss_and_entropy(linear.hidden, linear.head, objective)
        metrics, entropies = fused.metrics, linear.spread(entropies).reshape(-1)
    else:
        log_probs, entropies = linear.log_probs(mode, True)
        own = dict(posed)
        if own.get("entropies") is not options.get("entropies"):
            own["entropies"] = entropies.detach()
        loss, metrics = policy_loss(log_probs, old_log_probs, advantages, mask, **own)
        entropies = entropies.reshape(-1)
        if entropy_coef:
            loss = loss - entropy_coef * (entropies * weights).sum()
    return loss, {**metrics, "entropy": masked_mean(entropies.detach(), tokens.mask)}


def _stand_in(hidden: Tensor, old_log_probs: Tensor) -> Tensor:
    """A tensor of the shape and type that log-probabilities will have."""
    for name, tensor in (("hidden", hidden), ("old_log_probs", old_log_probs)):
        check_floats(name, tensor)
    if hidden.shape[:-1] != old_log_probs.shape:
        got, expected = tuple(old_log_probs.shape), tuple(hidden.shape[:-1])
        raise InputError(f"old_log_probs: got shape {got}, expected {expected} as hidden")
    kind = torch.float64 if hidden.dtype == torch.float64 else torch.float32
    return old_log_probs.detach().to(kind)


def _pieces(problem: Problem, linear: Linear, mode: str) -> list[slice] | None:
    """The tokens that are taken together, or `None` where the two calls are made."""
    parts = (linear.hidden, linear.head.weight, linear.head.bias)
    trained = [part is not None and part.requires_grad for part in parts]
    two_calls = mode in ("recompute", "frozen") or linear.head.batch_invariant
    if two_calls or not (torch.is_grad_enabled() and any(trained)):
        return None
    if mode == "auto" and linear.hidden.dtype == torch.float16:
        # Its gradients are rounded before a scale of the loss has lifted them into its range.
        return None
    most = linear.plan().rows
    kind = "cpu" if linear.hidden.device.type == "cpu" else "other"
    enough = min(BREAK_EVEN[kind], len(linear.hidden))
    if mode == "auto" and any(trained[1:]) and most < enough:
        return None
    pieces = None
    if problem.keep is None and problem.entry.reads != "batch":
        pieces = pieces_within(len(linear.hidden), most, _ties(problem, linear))
    if pieces is None and mode == "fused":
        raise OptionError(
            f"mode: got 'fused', expected 'auto' or 'recompute': with {problem.entry.name} and "
            f"these options a token depends on more tokens than the {most} that the budget holds"
        )
    return pieces


def _ties(problem: Problem, linear: Linear) -> list[Tensor]:
    """Ids of the spans, `(n,)`, whose tokens must be in one piece."""
    tokens, ties = problem.tokens, []
    if problem.level not in ("token", "sequence"):
        ties.append(tokens.spans(problem.level))
    if problem.level == "sequence" or problem.entry.reads == "sequence":
        ties.append(tokens.rows)
    size, device = len(tokens.mask), tokens.mask.device
    ids = [row_ids(spans, size, device) for spans in ties if spans is not None]
    return [own if linear.places is None else own[linear.places] for own in ids]


def pieces_within(count: int, most: int, ties: Sequence[Tensor]) -> list[slice] | None:
    """Consecutive slices of `count` tokens, of at most `most`, that cut no span.

    `ties` are ids of spans, `(count,)` each. `None` where a span is longer than `most`.
    """
    if not ties:
        return list(slices(count, most))
    place = torch.arange(count)
    reach = place
    for ids in ties:
        _, dense = ids.cpu().unique(return_inverse=True)
        last = torch.zeros(count, dtype=torch.long).scatter_reduce(0, dense, place, "amax")
        reach = torch.maximum(reach, last[dense])
    # A piece may end after a token that no span reaches beyond.
    ends = (place[reach.cummax(0).values == place] + 1).tolist()
    pieces, start = [], 0
    for index, end in enumerate(ends):
        if end - start > most:
            return None
        if index + 1 == len(ends) or ends[index + 1] - start > most:
            pieces.append(slice(start, end))
            start = end
    return pieces


@dataclass
class _Fused:
    """A posed loss, piece by piece and as a whole."""

    problem: Problem
    sampler: Tensor | None
    linear: Linear
    weights: Tensor
    entropy_coef: float
    metrics: Metrics = field(default_factory=dict)

    def __post_init__(self) -> None:
        places = self.linear.places
        every = slice(None) if places is None else places
        self.weights = self.weights[every]
        self.own = narrowed(self.problem, every)

    def slope(self, at: slice, log_probs: Tensor, entropies: Tensor) -> tuple[Tensor, Any]:
        """Gradients of the loss by a piece's log-probabilities and entropies."""
        piece = narrowed(self.own, at)
        with torch.enable_grad():
            own = log_probs.detach().requires_grad_()
            loss, _ = solve(_with(piece, own), None)
            (grad,) = torch.autograd.grad(loss, own)
        return grad, -self.entropy_coef * self.weights[at] if self.entropy_coef else None

    def value(self, log_probs: Tensor, entropies: Tensor) -> Tensor:
        """The loss; metrics are left in `metrics`."""
        flat = self.linear.spread(log_probs).reshape(-1)
        loss, self.metrics = solve(_with(self.problem, flat), self.sampler)
        if self.entropy_coef:
            loss = loss - self.entropy_coef * (entropies * self.weights).sum()
        return loss


@dataclass(frozen=True)
class _Known(Aggregation):
    """An aggregation whose weights are known: those that rows have in the whole batch."""

    known: Tensor = None

    def of_lengths(self, lengths: Tensor, rows: Spans) -> Tensor:
        return self.known


def narrowed(problem: Problem, at: Any) -> Problem:
    """The problem of the tokens `at`, with the weights that they have in the whole.

    Spans keep their ids and their count, so that a row's weight is found by its id.
    """
    tokens = problem.tokens
    known, spans = problem.aggregation.row_weights(tokens.mask, tokens.rows), tokens.segments

    def of(value: Any) -> Any:
        return value[at] if isinstance(value, torch.Tensor) and value.dim() else value

    def ids(whole: Spans) -> Tensor:
        return row_ids(whole, len(tokens.mask), tokens.mask.device)[at]

    def rows() -> Spans:
        own, count = ids(tokens.rows), tokens.rows.count
        # Also of rows without a token here: the kernels look each one up.
        starts = torch.searchsorted(own, torch.arange(count + 1, device=own.device))
        return Spans(count, ids=own, offsets=starts)

    own = replace(
        tokens,
        log_probs=of(tokens.log_probs),
        old_log_probs=of(tokens.old_log_probs),
        advantages=of(tokens.advantages),
        mask=of(tokens.mask),
        rows=rows(),
        segments=spans and Spans(spans.count, ids=ids(spans)),
        rollout_weights=of(tokens.rollout_weights),
    )
    return replace(
        problem,
        tokens=own,
        options={name: of(value) for name, value in problem.options.items()},
        aggregation=_Known(known=known),
        ref_log_probs=of(problem.ref_log_probs),
    )


def _with(problem: Problem, log_probs: Tensor) -> Problem:
    return replace(problem, tokens=replace(problem.tokens, log_probs=log_probs))

"""Log-probability and entropy of rows of logits, and their gradient. Torch alone.

The path without a GPU, and the oracle of `kernels/triton/row.py`. Logits are `(B, T, V)`
with any strides, what belongs to a row is `(B, T)`. Rows are taken a few at a time, so
nothing of the logits' size is made but the gradient; sums are in float32, in float64
where the logits are. A row outside the mask is never read.

With `z = cap(x) / temperature`, `cap(x) = softcap * tanh(x / softcap)`, `p = softmax(z)`:

    log_prob = z[target] - lse        lse = log sum exp z        entropy = lse - sum p z
    d/dz_j   = [j = target] dlog_prob + p_j (dlse - dlog_prob - dentropy (log p_j + entropy))
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

Tensor = Any  # torch is optional, so it is not there for every type checker

CHUNK = {"cpu": 2**20, "other": 2**26}
"""Logits taken at a time: what a processor's cache holds; enough to fill a device."""

FLOOR = -1e30
"""Stands for a log-probability of `-inf`, which times a probability of 0 is no number."""


@dataclass(frozen=True)
class Row:
    """How rows are read: everything but the logits themselves.

    Attributes:
        targets: `(B, T)`, int64, in the whole vocabulary.
        mask: `(B, T)`, booleans; `None` reads every row.
        temperature: a number, or `(B, T)`.
        softcap: `None` for none.
        vocab_offset: the place in the vocabulary of the first column.
        vocab_size: of the whole vocabulary; a target beyond it gives NaN.
        batch_invariant: no bit of a row depends on the other rows: they are taken singly.
    """

    targets: Tensor
    mask: Tensor
    temperature: Any
    softcap: float | None
    vocab_offset: int
    vocab_size: int
    batch_invariant: bool = False


def row_stats(logits: Tensor, row: Row, with_entropy: bool) -> tuple[Tensor, Tensor, Tensor]:
    """`log_probs`, `lse` and `entropy` of each row, `(B, T)`, 0 outside the mask.

    A target that lies in another rank's columns has the log-probability `-inf`. Columns
    of `-inf` have no probability; a row of them alone has `lse = -inf`, and its entropy
    is NaN. Without entropy, the third has no elements.
    """
    kind = accumulated_in(logits)
    log_probs, lse = (logits.new_zeros(logits.shape[:-1], dtype=kind) for _ in range(2))
    entropy = logits.new_zeros(logits.shape[:-1] if with_entropy else 0, dtype=kind)
    for at in _chunks(logits, row):
        z, _ = _scaled(logits[at], row, at, kind)
        target = _at_target(z, row, at)
        top = z.amax(-1)
        top = torch.where(top == -math.inf, 0.0, top)
        z.sub_(top[:, None])
        weights = z.exp()
        total = weights.sum(-1)
        log_total = total.log()
        # Where no column has probability, log_total is -inf as well.
        own = torch.where(target == -math.inf, target, target - top - log_total)
        log_probs[at] = _at_most_zero(own)
        lse[at] = top + log_total
        if with_entropy:
            entropy[at] = log_total - weights.mul_(z.clamp_(min=FLOOR)).sum(-1) / total
    return log_probs, lse, entropy


def row_grad(
    logits: Tensor, row: Row, saved: tuple[Tensor, Tensor], upstream: Any, out: Tensor
) -> None:
    """Write the gradient of the logits to `out`, which may be the logits.

    Args:
        logits: `(B, T, V)`, as `row_stats` got them.
        row: as `row_stats` got it.
        saved: its `lse` and `entropy`, or those of the whole vocabulary.
        upstream: gradients of `log_probs`, `lse` and `entropy`; the third may be `None`.
        out: `(B, T, V)`; rows outside the mask become 0.
    """
    kind = accumulated_in(logits)
    lse, entropy = saved
    dlog_prob, dlse, dentropy = upstream
    if row.mask is not None:
        # At once for whole rows: they are not read below.
        out[~row.mask] = 0
    for at in _chunks(logits, row):
        z, tanh = _scaled(logits[at], row, at, kind)
        z.sub_(lse[at][:, None])
        grad = z.exp()
        factor = (dlse[at] - dlog_prob[at])[:, None]
        if dentropy is not None:
            surprise = z.clamp_(min=FLOOR).add_(entropy[at][:, None])
            factor = factor - surprise.mul_(dentropy[at][:, None])
        grad.mul_(factor)
        rows, columns = _own_targets(row, at, logits.shape[-1])
        grad[rows, columns] += dlog_prob[at][rows]
        if tanh is not None:
            grad.mul_(1 - tanh.square())
        out[at] = grad.mul_(_inverse_temperature(row, at, kind)).to(out.dtype)


def merge(log_probs: Tensor, lse: Tensor, entropy: Tensor | None) -> tuple[Tensor, ...]:
    """Statistics of a vocabulary from those of its parts, `(parts, ...)`, in their order.

    `log_probs` is `-inf` in the parts that do not hold the target.
    """
    whole = lse.logsumexp(0)
    log_probs = _at_most_zero((log_probs + (lse - whole)).amax(0))
    if entropy is None:
        return log_probs, whole, entropy
    share = (lse - whole).exp()
    # A part without probability has no entropy of its own, NaN.
    terms = torch.where(share == 0, 0.0, share * (entropy + whole - lse))
    return log_probs, whole, terms.sum(0)


def accumulated_in(logits: Tensor) -> Any:
    """The type of sums and of results."""
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


def _chunks(logits: Tensor, row: Row) -> Iterator[tuple[Tensor, Tensor]]:
    """Indices of rows to read, in two dimensions, a few rows at a time."""
    batch, length, vocab = logits.shape
    if row.mask is not None:
        places = row.mask.reshape(-1).nonzero().squeeze(-1)
    else:
        places = torch.arange(batch * length, device=logits.device)
    limit = CHUNK["cpu" if logits.device.type == "cpu" else "other"]
    size = 1 if row.batch_invariant else max(limit // max(vocab, 1), 1)
    for chunk in places.split(size) if len(places) else ():
        yield chunk // length, chunk % length


def _scaled(logits: Tensor, row: Row, at: Any, kind: Any) -> tuple[Tensor, Tensor | None]:
    """Capped and divided by the temperature, in place; and the cap's tanh, for its slope."""
    z, tanh = logits.to(kind), None
    if row.softcap is not None:
        tanh = z.div_(row.softcap).tanh_()
        z = tanh * row.softcap
    return z.mul_(_inverse_temperature(row, at, kind)), tanh


def _inverse_temperature(row: Row, at: Any, kind: Any) -> Any:
    if isinstance(row.temperature, torch.Tensor):
        return row.temperature[at][:, None].to(kind).reciprocal()
    return 1.0 / row.temperature


def _own_targets(row: Row, at: Any, columns: int) -> tuple[Tensor, Tensor]:
    """Which of the rows have their target among these columns, and where."""
    local = row.targets[at] - row.vocab_offset
    rows = ((local >= 0) & (local < columns)).nonzero().squeeze(-1)
    return rows, local[rows]


def _at_target(z: Tensor, row: Row, at: Any) -> Tensor:
    """The target's own column, `-inf` where it is not here, NaN where it is nowhere."""
    targets = row.targets[at]
    rows, columns = _own_targets(row, at, z.shape[-1])
    found = z.new_full((len(z),), -math.inf)
    found[(targets < 0) | (targets >= row.vocab_size)] = math.nan
    found[rows] = z[rows, columns]
    return found


def _at_most_zero(log_probs: Tensor) -> Tensor:
    """Without the rounding that makes a certain token more than certain; NaN stays."""
    return torch.where(log_probs > 0, 0.0, log_probs)

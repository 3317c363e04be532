"""Tokens as flat vectors, the spans that they lie in, and ratios over those spans.

Depends on `bounds`. Everything is `(N,)`: a padded `(B, T)` batch read row by row,
or a packed one. Values outside the mask were replaced when the batch was built, so
that nothing there reaches a value or a gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from apportion.kernels.reference.bounds import bound, straight_through

Tensor = Any  # torch is optional, so it is not there for every type checker

LEVELS = ("token", "turn", "segment", "sequence")


@dataclass(frozen=True)
class Spans:
    """A partition of `N` tokens into `count` spans, some of them perhaps empty.

    Padded rows have a `width` and are summed as a matrix; others have `ids`, `(N,)`. Where
    each is one run of tokens, in order, `are_runs` is true, and `offsets`, `(count + 1,)`,
    may hold their starts.
    """

    count: int
    width: int | None = None
    ids: Tensor = None
    offsets: Tensor = None
    are_runs: bool = False

    def sum(self, values: Tensor) -> Tensor:
        """Sum over each span, `(count,)`, in a fixed order."""
        if self.width is not None:
            return values.reshape(self.count, self.width).sum(-1)
        zeros = values.new_zeros(self.count)
        if values.is_cuda:  # there it sorts, while `index_add` adds as the threads come
            return zeros.index_put((self.ids,), values, accumulate=True)
        return zeros.index_add(0, self.ids, values)

    def spread(self, values: Tensor) -> Tensor:
        """The value of its span for each token, `(N,)`."""
        if self.width is not None:
            return values[:, None].expand(self.count, self.width).reshape(-1)
        return values[self.ids]

    def scaled(self, values: Tensor, factors: Tensor) -> Tensor:
        """Values of tokens, `(N,)`, times the factor of their span, `(count,)`."""
        if self.width is not None:
            return (values.reshape(self.count, self.width) * factors[:, None]).reshape(-1)
        return values * factors[self.ids]


@dataclass(frozen=True)
class Tokens:
    """What a loss reads. All tensors are `(N,)` in float32 or float64."""

    log_probs: Tensor
    old_log_probs: Tensor
    advantages: Tensor
    mask: Tensor
    rows: Spans
    segments: Spans | None = None
    rollout_weights: Tensor = None
    generator: Any = None

    @property
    def log_ratio(self) -> Tensor:
        """`log pi - log pi_old` of each token."""
        return self.log_probs - self.old_log_probs

    def spans(self, level: str) -> Spans | None:
        """Where a ratio is pooled; `None` for single tokens."""
        if level == "token":
            return None
        return self.rows if level == "sequence" else self.segments

    def row_mean(self, values: Tensor, eps: float = 0.0) -> Tensor:
        """Mean over the valid tokens of each row, `(rows,)`; 0 for an empty one.

        `eps` is added to the count, which is otherwise at least 1.
        """
        return self.rows.sum(values * self.mask) / counts(self.rows, self.mask, eps)


def counts(spans: Spans, mask: Tensor, eps: float = 0.0) -> Tensor:
    """Valid tokens of each span: `n + eps`, or `max(n, 1)` without `eps`."""
    lengths = spans.sum(mask)
    return lengths + eps if eps else lengths.clamp(min=1.0)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """`sum(x m) / (sum(m) + 1e-8)`, as verl reports its metrics: 0 if all is masked."""
    return (values * mask).sum() / (mask.sum() + 1e-8)


def pooled_log_ratio(tokens: Tokens, level: str, gradient: str, bounds: Any) -> Tensor:
    """The log ratio of each token at a level, `(N,)`.

    At the levels above `token` it is the mean over the valid tokens of the
    span. With `gradient="mean"` the gradient goes through that mean; with `"token"`
    the value is the mean and the gradient is that of the token's own log-probability
    (GSPO-token, arXiv 2507.18071, equation 14). `bounds`, `(low, high)`, are applied
    last, and the gradient is zero beyond them.
    """
    ratio, spans = tokens.log_ratio, tokens.spans(level)
    if spans is not None:
        mean = spans.sum(ratio * tokens.mask) / counts(spans, tokens.mask)
        ratio = spans.spread(mean)
        if gradient == "token":
            ratio = straight_through(ratio, tokens.log_probs)
    return ratio if bounds is None else bound(ratio, *bounds)


def runs_of_mask(mask: Tensor, rows: Spans) -> Spans:
    """Turns as maximal runs of mask 1 within a row.

    Masked tokens join the run before them, which their weight of zero leaves as it is.
    """
    return _spans_from_starts(mask.bool() & ~_previous(mask.bool(), rows))


def runs_of_value(values: Tensor, mask: Tensor, rows: Spans) -> Spans:
    """Turns as runs of one value over the valid tokens of a row, gaps skipped.

    A2TGPO's loss finds its turns so, from the advantages: two neighbouring turns of
    equal advantage are one.
    """
    valid = mask.bool().nonzero().squeeze(-1)
    row, value = row_ids(rows, len(mask), mask.device)[valid], values.detach()[valid]
    starts = torch.ones_like(valid, dtype=torch.bool)
    starts[1:] = (value[1:] != value[:-1]) | (row[1:] != row[:-1])
    return _spans_from_starts(torch.zeros_like(mask, dtype=torch.bool).index_put((valid,), starts))


def spans_of_ids(ids: Tensor, rows: Spans) -> Spans:
    """Spans from any ids of tokens; equal ids of a row are one span."""
    unique, dense = torch.unique(ids, return_inverse=True)
    of_rows = row_ids(rows, len(ids), ids.device) * len(unique) + dense
    unique, dense = torch.unique(of_rows, return_inverse=True)
    return Spans(len(unique), ids=dense)


def spans_of_offsets(offsets: Tensor, size: int, device: Any) -> Spans:
    """Spans of `size` tokens from their starts, `(count + 1,)`."""
    offsets = offsets.to(device).contiguous()
    ids = torch.searchsorted(offsets[1:], torch.arange(size, device=device), right=True)
    return Spans(len(offsets) - 1, ids=ids, offsets=offsets, are_runs=True)


def row_ids(rows: Spans, size: int, device: Any) -> Tensor:
    """The row of each token, `(N,)`."""
    if rows.width is None:
        return rows.ids
    return torch.arange(size, device=device) // max(rows.width, 1)


def _previous(valid: Tensor, rows: Spans) -> Tensor:
    """Whether the token before is valid and in the same row."""
    ids = row_ids(rows, len(valid), valid.device)
    before = torch.zeros_like(valid)
    before[1:] = valid[:-1] & (ids[1:] == ids[:-1])
    return before


def _spans_from_starts(starts: Tensor) -> Spans:
    # One span more than there can be, so that the count need not be known on the host.
    return Spans(len(starts) + 1, ids=starts.long().cumsum(0), are_runs=True)

"""Aggregation of token losses as one weight a token. Depends on `batch`.

Every mode is `weight[t] = mask[t] * row_weight[row of t]`, so a loss is the dot product
of token losses and weights, and given counts of the whole batch the micro-batches'
losses add up to the loss of the batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from apportion.kernels.reference.batch import Spans, Tensor

MODES = {
    "token-mean": "sum(x m) / num_tokens",
    "token-sum": "sum(x m)",
    "seq-mean-token-sum": "sum(x m) / num_sequences",
    "seq-mean-token-mean": "sum over rows of mean(x), / num_sequences",
    "seq-mean-token-sum-norm": "sum(x m) / scale_factor",
    "dr-grpo": "sum(x m) / (num_sequences * scale_factor)",
    "prompt-mean": "sum over prompts of mean(x), / num_prompts",
}
"""The aggregation modes. The names with `seq-` and `token-` are verl's."""


@dataclass(frozen=True)
class Aggregation:
    """How token losses become one number.

    Attributes:
        mode: a key of `MODES`.
        num_tokens: valid tokens of the whole batch; default: of this one.
        num_sequences: sequences of the whole batch; default: of this one.
        dp_size: ranks over which gradients will be averaged; multiplies every mode but
            `seq-mean-token-sum-norm`, as in verl.
        scale_factor: the constant length of `seq-mean-token-sum-norm` and `dr-grpo`;
            default: the padded width, for ragged rows the longest.
        count_rows: `"valid"` leaves rows without a valid token out of the default of
            `num_sequences`, `"all"` counts them.
        row_eps: added to a row's length in `seq-mean-token-mean`; at 0 the length is
            at least 1.
        count_floor: least value of the divisors that are counted; at 0 a batch
            without valid tokens is NaN.
        num_prompts: prompts of the whole batch, for `prompt-mean`.
        prompt_tokens: `(rows,)` for `prompt-mean`: the valid tokens of all sequences of
            the whole batch that share the row's prompt.
    """

    mode: str = "token-mean"
    num_tokens: Any = None
    num_sequences: Any = None
    dp_size: int = 1
    scale_factor: float | None = None
    count_rows: str = "valid"
    row_eps: float = 0.0
    count_floor: float = 1.0
    num_prompts: Any = None
    prompt_tokens: Tensor = None

    def weights(self, mask: Tensor, rows: Spans) -> Tensor:
        """The weight of each token, `(N,)`; 0 outside the mask."""
        mask = mask.detach()
        return rows.scaled(mask, self.row_weights(mask, rows))

    def row_weights(self, mask: Tensor, rows: Spans) -> Tensor:
        """The weight of each valid token of a row, `(rows,)`."""
        return self.of_lengths(rows.sum(mask), rows)

    def of_lengths(self, lengths: Tensor, rows: Spans) -> Tensor:
        """The same, from the numbers of valid tokens of the rows."""
        one = lengths.new_ones(rows.count)
        if self.mode == "token-sum":
            return one * self.dp_size
        if self.mode == "token-mean":
            return one * self.dp_size / self._count(self.num_tokens, lengths.sum())
        if self.mode == "seq-mean-token-sum-norm":
            return one / self._length(lengths, rows)
        if self.mode == "prompt-mean":
            return one * self.dp_size / (self.prompt_tokens.clamp(min=1.0) * self.num_prompts)
        sequences = self._count(self.num_sequences, self._rows(lengths, rows))
        if self.mode == "dr-grpo":
            one = one / self._length(lengths, rows)
        if self.mode == "seq-mean-token-mean":
            one = one / (lengths + self.row_eps if self.row_eps else lengths.clamp(min=1.0))
        return one * self.dp_size / sequences

    def _rows(self, lengths: Tensor, rows: Spans) -> Tensor:
        if self.count_rows == "valid":
            return (lengths > 0).to(lengths.dtype).sum()
        return lengths.new_tensor(float(rows.count))

    def _count(self, given: Any, counted: Tensor) -> Any:
        if given is not None:
            return given
        return counted.clamp(min=self.count_floor) if self.count_floor else counted

    def _length(self, lengths: Tensor, rows: Spans) -> Any:
        if self.scale_factor is not None:
            return self.scale_factor
        if rows.width is not None:
            return max(rows.width, 1)
        return lengths.max().clamp(min=1.0) if rows.count else 1

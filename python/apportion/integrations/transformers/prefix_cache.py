"""Keys and values of prefixes, computed once and shared by all that continues them.

A prefix is a tuple of tokens. What is known of its longest known beginning is taken
over, and the rest is run for many prefixes at once. Depends on torch and transformers.
"""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

Tokens = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Known:
    """A prefix as the model knows it.

    `layers` has keys and values `(1, heads, tokens, dim)` of each layer; `logits`
    `(vocabulary,)` are those of the next token.
    """

    tokens: Tokens
    layers: list[tuple[torch.Tensor, torch.Tensor]]
    logits: torch.Tensor


class PrefixCache:
    """Prefixes of one model, the least recently used forgotten beyond `max_tokens`.

    For models whose layers all attend to everything before, see `shares`.
    """

    def __init__(self, model: Any, max_tokens: int) -> None:
        """Knows nothing yet."""
        self.model, self.max_tokens = model, max_tokens
        self._known: OrderedDict[Tokens, Known] = OrderedDict()
        self._keeps = "logits_to_keep" in inspect.signature(model.forward).parameters
        self.held = 0
        """Tokens whose keys and values are kept."""
        self.computed = 0
        """Tokens that were run through the model for prefixes."""

    def get(self, prefixes: Sequence[tuple[Tokens, Sequence[int]]]) -> list[Known]:
        """Each prefix, given with the lengths at which a beginning of it may be known."""
        missing = {tokens: cuts for tokens, cuts in prefixes if tokens not in self._known}
        found = {tokens: self._known[tokens] for tokens, _ in prefixes if tokens in self._known}
        for tokens in found:
            self._known.move_to_end(tokens)
        if missing:
            starts = [self._beginning(tokens, cuts) for tokens, cuts in missing.items()]
            for known in self._compute(list(missing), starts):
                found[known.tokens] = known
                self._keep(known)
        return [found[tokens] for tokens, _ in prefixes]

    def _beginning(self, tokens: Tokens, cuts: Sequence[int]) -> Known | None:
        for cut in sorted(cuts, reverse=True):
            known = self._known.get(tokens[:cut]) if 0 < cut < len(tokens) else None
            if known is not None:
                self._known.move_to_end(known.tokens)
                return known
        return None

    def _keep(self, known: Known) -> None:
        self._known[known.tokens] = known
        self.held += len(known.tokens)
        while self.held > self.max_tokens and len(self._known) > 1:
            self.held -= len(self._known.popitem(last=False)[0])

    def _compute(self, prefixes: list[Tokens], starts: list[Known | None]) -> list[Known]:
        """Run what follows the known beginnings, all as one batch."""
        from_ = [len(start.tokens) if start else 0 for start in starts]
        rest = [tokens[cut:] for tokens, cut in zip(prefixes, from_, strict=True)]
        self.computed += sum(map(len, rest))
        batch = Batch.of(self.model, starts) if any(starts) else Batch.empty(self.model, len(rest))
        # With right padding: the real tokens of a causal model never see it.
        ends = [len(tokens) - 1 for tokens in rest]
        logits = batch.feed(rest, ends if self._keeps else None)
        wide = batch.width - max(map(len, rest))  # columns before the new ones
        known = []
        for row, tokens in enumerate(prefixes):
            span = slice(wide - from_[row], wide + len(rest[row]))
            # Copies: a view would hold the whole batch.
            layers = [
                tuple(block[row : row + 1, :, span].clone() for block in (layer.keys, layer.values))
                for layer in batch.cache.layers
            ]
            known.append(Known(tokens, layers, logits[row]))
        return known


def shares(model: Any) -> bool:
    """Whether the model's state at a prefix can be cut and copied.

    Not so with sliding windows and recurrent layers: their state is no list of tokens.
    """
    layers = DynamicCache(config=model.config).layers
    return all(type(layer) is DynamicLayer for layer in layers)


@dataclass(eq=False)
class Batch:
    """Rows that are continued together: a cache padded on the left, and what of it is real."""

    model: Any
    cache: Any
    mask: torch.Tensor
    lengths: torch.Tensor

    @classmethod
    def empty(cls, model: Any, rows: int) -> Batch:
        """Rows without a token."""
        mask = torch.zeros(rows, 0, dtype=torch.long, device=model.device)
        lengths = torch.zeros(rows, dtype=torch.long, device=model.device)
        return cls(model, DynamicCache(config=model.config), mask, lengths)

    @classmethod
    def of(cls, model: Any, rows: Sequence[Known | None]) -> Batch:
        """Rows that start at known prefixes, or at nothing."""
        sizes = [len(row.tokens) if row else 0 for row in rows]
        width = max(sizes)
        pattern = next(row for row in rows if row).layers
        cache = DynamicCache(config=model.config)
        for index, (keys, values) in enumerate(pattern):
            shape = (len(rows), keys.shape[1], width)
            pair = (
                keys.new_zeros(*shape, keys.shape[3]),
                values.new_zeros(*shape, values.shape[3]),
            )
            for i, row in enumerate(rows):
                if row:
                    for block, own in zip(pair, row.layers[index], strict=True):
                        block[i, :, width - sizes[i] :] = own[0]
            cache.update(*pair, index)
        lengths = torch.tensor(sizes, device=model.device)
        columns = torch.arange(width, device=model.device)
        mask = (columns >= width - lengths[:, None]).long()
        return cls(model, cache, mask, lengths)

    @property
    def width(self) -> int:
        """Columns, padding among them."""
        return int(self.mask.shape[1])

    def feed(
        self,
        tokens: Sequence[Sequence[int]],
        ends: Sequence[int] | None = None,
        every: bool = False,
    ) -> torch.Tensor:
        """Run tokens, shorter rows padded on the right; logits after each row's last one.

        `ends`, if given, are the columns of the last ones, and the model is asked for
        those alone. `every`: logits `(rows, columns, vocabulary)` of all new tokens.
        """
        device, sizes = self.model.device, [len(row) for row in tokens]
        width = max(sizes)
        ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in tokens], device=device)
        columns = torch.arange(width, device=device)
        size = torch.tensor(sizes, device=device)
        self.mask = torch.cat([self.mask, (columns < size[:, None]).long()], dim=1)
        more: dict[str, Any] = {}
        kept = sorted(set(ends)) if ends is not None else list(range(width))
        if ends is not None:
            more["logits_to_keep"] = torch.tensor(kept, device=device)
        out = self.model(
            input_ids=ids,
            attention_mask=self.mask,
            # Padding repeats the last position: there may be no embedding beyond it.
            position_ids=self.lengths[:, None] + columns.minimum(size[:, None] - 1),
            past_key_values=self.cache,
            use_cache=True,
            **more,
        )
        self.cache = out.past_key_values
        self.lengths = self.lengths + size
        if every:
            return out.logits.float()
        last = torch.tensor([kept.index(n - 1) for n in sizes], device=device)
        rows = torch.arange(len(sizes), device=device)
        return out.logits[rows, last].float()

    def keep(self, rows: list[int]) -> None:
        """Go on with some of the rows."""
        index = torch.tensor(rows, device=self.model.device)
        self.cache.batch_select_indices(index)
        self.mask, self.lengths = self.mask[index], self.lengths[index]

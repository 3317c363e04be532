"""A decoder small enough to compare log-probs in float64, with positions and masks as given."""

from __future__ import annotations

from typing import Any

import torch

VOCABULARY, WIDTH, HEADS, LAYERS, LONGEST = 23, 16, 2, 2, 64


class Transformer(torch.nn.Module):
    """A small decoder with position ids and an attention mask of the caller's."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = torch.nn.Embedding(VOCABULARY, WIDTH)
        self.positions = torch.nn.Embedding(LONGEST, WIDTH)
        layer = {
            "qkv": lambda: torch.nn.Linear(WIDTH, 3 * WIDTH),
            "out": lambda: torch.nn.Linear(WIDTH, WIDTH),
            "up": lambda: torch.nn.Linear(WIDTH, 4 * WIDTH),
            "down": lambda: torch.nn.Linear(4 * WIDTH, WIDTH),
            "norm": lambda: torch.nn.LayerNorm(WIDTH),
            "second": lambda: torch.nn.LayerNorm(WIDTH),
        }
        made = [
            torch.nn.ModuleDict({k: make() for k, make in layer.items()}) for _ in range(LAYERS)
        ]
        self.layers = torch.nn.ModuleList(made)
        self.head = torch.nn.Linear(WIDTH, VOCABULARY)

    def forward(self, ids: Any, positions: Any, mask: Any) -> Any:
        """Log-probabilities of the next token, `(tokens, vocabulary)`."""
        x = self.tokens(ids) + self.positions(positions)
        for layer in self.layers:
            parts = layer["qkv"](layer["norm"](x)).view(len(ids), 3, HEADS, -1).permute(1, 2, 0, 3)
            query, key, value = parts
            seen = torch.nn.functional.scaled_dot_product_attention(
                query, key, value, attn_mask=mask
            )
            x = x + layer["out"](seen.permute(1, 0, 2).reshape(len(ids), WIDTH))
            x = x + layer["down"](torch.relu(layer["up"](layer["second"](x))))
        return torch.log_softmax(self.head(x), dim=-1)

"""Log-probabilities and entropy from hidden states and a head. Part of `log_probs`.

Arguments are checked here; the computation is in `apportion.kernels.linear`. Needs torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from apportion.errors import DtypeError, InputError, OptionError
from apportion.loss.inputs import check_choice
from apportion.loss.rows import Asked, RowInputs
from apportion.loss.tensors import check_floats

# isort: split
# rows comes first: it says what to install where torch is missing.
import torch

from apportion.kernels.linear.log_probs import Head, logit_bytes
from apportion.kernels.linear.operators import log_probs_and_entropy
from apportion.kernels.linear.plan import MEMORY_BUDGET, Plan

Tensor = Any
MODES = ("auto", "recompute", "frozen")


@dataclass(frozen=True)
class Linear:
    """Hidden states and head of one call, checked.

    Attributes:
        hidden: `(n, H)`: those of the mask, or all where `mask` is there.
        head: weight, bias and what is asked of them, targets `(n,)`.
        places: `(n,)`, where they are among all tokens; `None` where all are there.
        mask: `(n,)`, where the operator is to leave tokens out.
        shape: of the results.
        budget: bytes of logits held at a time.
    """

    hidden: Tensor
    head: Head
    places: Tensor | None
    mask: Tensor | None
    shape: tuple[int, ...]
    budget: int

    def plan(self) -> Plan:
        """Sizes of the pieces."""
        return self.head.plan(self.hidden, self.budget)

    def log_probs(self, mode: str, entropy: bool) -> tuple[Tensor, Tensor]:
        """Log-probabilities and entropy of all tokens, differentiable; `mode` as in `MODES`.

        The second is of no use where `entropy` is false.
        """
        frozen = _is_frozen(mode, self.hidden, self.head)
        log_probs, entropies = log_probs_and_entropy(
            self.hidden, self.head, self.mask, self.budget, frozen, entropy
        )
        return self.spread(log_probs), self.spread(entropies)

    def spread(self, values: Tensor) -> Tensor:
        """One value for each token of the mask, as all tokens: 0 outside it."""
        if self.places is not None:
            size = torch.Size(self.shape).numel()
            values = values.new_zeros(size).index_copy(0, self.places, values)
        return values.reshape(self.shape)


def _is_frozen(mode: str, hidden: Tensor, head: Head) -> bool:
    """Whether the gradient of the hidden states is computed in the forward pass."""
    check_choice("mode", mode, MODES)
    trained = head.weight.requires_grad or (head.bias is not None and head.bias.requires_grad)
    if mode == "frozen" and trained:
        raise OptionError("mode: got 'frozen', expected 'auto' or 'recompute' for a trained head")
    return mode != "recompute" and not trained and hidden.requires_grad and torch.is_grad_enabled()


def checked(given: tuple[Tensor, ...], asked: Asked, memory_budget: int | None) -> Linear:
    """`(hidden, weight[, bias])` and what is asked of their logits, for the tokens of the mask."""
    hidden, weight, bias = _tensors(given)
    rows = RowInputs(hidden.shape[:-1], hidden.device, len(weight))
    row = rows.row(asked, (0, len(weight)))
    budget = _budget(memory_budget, len(weight) * logit_bytes(hidden))
    flat, places = hidden.reshape(-1, hidden.shape[-1]), None
    mask = None if row.mask is None else row.mask.reshape(-1)
    # In compiled code no size may depend on values: there the operator leaves tokens out.
    if mask is not None and not torch.compiler.is_compiling():
        places, mask = mask.nonzero().squeeze(-1), None
        places = places if len(places) < len(flat) else None
    if places is not None:
        flat = flat[places]
    each = _of(row.targets, places), _of(row.temperature, places)
    head = Head(weight, bias, *each, row.softcap, row.batch_invariant)
    return Linear(flat, head, places, mask, rows.shape, budget)


def _of(values: Any, places: Tensor | None) -> Any:
    """What belongs to the tokens of the mask; numbers belong to all."""
    if not isinstance(values, torch.Tensor):
        return values
    return values.reshape(-1) if places is None else values.reshape(-1)[places]


def _tensors(given: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor | None]:
    """Hidden states, weight and bias in one type, as autocast would have them."""
    if len(given) not in (2, 3):
        raise InputError(f"logits: got {len(given)} parts, expected (hidden, weight[, bias])")
    names = ("hidden", "weight", "bias")
    for name, tensor in zip(names[: len(given)], given, strict=True):
        if tensor is not None or name != "bias":
            check_floats(name, tensor)
    parts: list[Tensor] = [_gathered(part) for part in given]
    hidden, weight, bias = parts[0], parts[1], parts[2] if len(parts) == 3 else None
    if torch.is_autocast_enabled(hidden.device.type) and hidden.dtype != torch.float64:
        kind = torch.get_autocast_dtype(hidden.device.type)
        hidden, weight = hidden.to(kind), weight.to(kind)
        bias = None if bias is None else bias.to(kind)
    _check_shapes(hidden, weight, bias)
    return hidden, weight, bias


def _check_shapes(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    if hidden.dim() not in (2, 3):
        got = tuple(hidden.shape)
        raise InputError(f"hidden: got shape {got}, expected (N, H) or (B, T, H)")
    if not hidden.shape[-1]:
        raise InputError("hidden: got a width of 0, expected at least 1")
    if weight.dim() != 2 or weight.shape[1] != hidden.shape[-1]:
        got, expected = tuple(weight.shape), f"(vocabulary, {hidden.shape[-1]}) as hidden"
        raise InputError(f"weight: got shape {got}, expected {expected}")
    if bias is not None and tuple(bias.shape) != (len(weight),):
        raise InputError(f"bias: got shape {tuple(bias.shape)}, expected ({len(weight)},)")
    for name, tensor in (("weight", weight), ("bias", bias)):
        if tensor is not None and tensor.device != hidden.device:
            raise InputError(f"{name}: got device {tensor.device}, expected {hidden.device}")
        if tensor is not None and tensor.dtype != hidden.dtype:
            raise DtypeError(f"{name}: got {tensor.dtype}, expected {hidden.dtype} as hidden")


def _gathered(tensor: Tensor) -> Tensor:
    """A sharded parameter of FSDP2 as a whole; its gradient is sharded again."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def _budget(given: int | None, row: int) -> int:
    if given is None:
        return max(MEMORY_BUDGET, row)
    if isinstance(given, bool) or not isinstance(given, int) or given < row:
        expected = f"an integer of at least {row} bytes, the logits of a token"
        raise OptionError(f"memory_budget: got {given!r}, expected {expected}")
    return given

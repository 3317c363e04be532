"""Arguments of `token_log_probs` that belong to a row of logits, checked. Needs torch.

Rows are `(N,)` or `(B, T)`; inside they are `(B, T)`, a packed batch `(N, 1)`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from apportion.errors import DtypeError, InputError, OptionError
from apportion.loss.inputs import check_number
from apportion.loss.tensors import as_mask, as_tensor, refuse

# isort: split
# tensors comes first: it says what to install where torch is missing.
import torch

from apportion.kernels.reference.row import Row

Tensor = Any


@dataclass(frozen=True)
class Asked:
    """What a call asks of rows of logits, as it was given: see `token_log_probs`."""

    targets: Any
    mask: Any
    temperature: Any
    softcap: Any
    logit_scale: Any
    batch_invariant: bool
    check: bool


class RowInputs:
    """The rows of one call; `row()` checks what is asked of them, for the operators."""

    def __init__(self, shape: Any, device: Any, columns: int) -> None:
        """`shape` is that of the rows, `columns` how many logits there are in each."""
        if len(shape) not in (1, 2):
            got, expected = (*shape, columns), "(N, V) or (B, T, V)"
            raise InputError(f"logits: got shape {got}, expected {expected}")
        if columns < 1:
            raise InputError("logits: got a vocabulary of 0, expected at least 1")
        self.shape, self.device, self.columns = tuple(shape), device, columns
        self.inner = self.shape if len(shape) == 2 else (*self.shape, 1)

    def row(self, asked: Asked, place: tuple[int, int]) -> Row:
        """`place` is the offset of the first column, and the size of the whole vocabulary."""
        cap, mask = asked.softcap, asked.mask
        check_number("softcap", cap, above=0.0, none=True)
        if mask is not None:
            mask = as_mask("mask", mask, self.shape, self.device, "logits have rows")
        row = Row(
            self._integers("targets", asked.targets),
            None if mask is None else mask.reshape(self.inner),
            self._temperature(asked.temperature),
            None if cap is None else float(cap),
            *place,
            asked.batch_invariant,
        )
        row = _scaled(row, asked.logit_scale)
        if asked.check and not torch.compiler.is_compiling():
            self._check_values(row)
        return row

    def _check_values(self, row: Row) -> None:
        """Refuse targets outside the vocabulary and temperatures that are not positive.

        Rows outside the mask may hold anything. This waits for the device, once.
        """
        wrong = {"targets": (row.targets < 0) | (row.targets >= row.vocab_size)}
        expected = {"targets": f"0 to {row.vocab_size - 1}"}
        values = {"targets": row.targets, "temperature": row.temperature}
        if isinstance(row.temperature, torch.Tensor):
            good = (row.temperature > 0) & (row.temperature < float("inf"))
            wrong["temperature"], expected["temperature"] = ~good, "a number above 0"
        if row.mask is not None:
            wrong = {name: bad & row.mask for name, bad in wrong.items()}
        flags = torch.stack([bad.any() for bad in wrong.values()]).tolist()
        for name in (name for name, flag in zip(wrong, flags, strict=True) if flag):
            own = values[name].reshape(self.shape), wrong[name].reshape(self.shape)
            refuse(name, *own, expected[name])

    def _integers(self, name: str, value: Any) -> Tensor:
        if value is None:
            raise InputError(f"{name}: got none, expected shape {self.shape}")
        tensor = as_tensor(name, value, self.device)
        if tuple(tensor.shape) != self.shape:
            got = tuple(tensor.shape)
            raise InputError(f"{name}: got shape {got}, expected {self.shape} as logits have rows")
        if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
            raise DtypeError(f"{name}: got {tensor.dtype}, expected integers")
        return tensor.reshape(self.inner).long()

    def _temperature(self, value: Any) -> Any:
        if not isinstance(value, (torch.Tensor, np.ndarray, list)):
            check_number("temperature", value, above=0.0)
            return float(value)
        tensor = as_tensor("temperature", value, self.device)
        if tensor.is_complex() or tensor.dtype == torch.bool:
            raise DtypeError(f"temperature: got {tensor.dtype}, expected real numbers")
        if tensor.requires_grad:
            raise InputError("temperature: got a tensor with a gradient, expected one without")
        sequences = self.shape[0]
        known = (self.shape, (), (sequences,), (sequences, 1))
        if tuple(tensor.shape) not in known:
            got, expected = tuple(tensor.shape), f"a number, {self.shape} or ({sequences},)"
            raise InputError(f"temperature: got shape {got}, expected {expected}")
        if tensor.shape and tuple(tensor.shape) != self.shape:
            tensor = tensor.reshape(sequences, 1)
        if tuple(tensor.shape) == self.shape:
            tensor = tensor.reshape(self.inner)
        kind = torch.float64 if tensor.dtype == torch.float64 else torch.float32
        return tensor.to(kind).expand(self.inner).contiguous()


def _scaled(row: Row, logit_scale: float) -> Row:
    """A row whose logits are multiplied first: `cap tanh(s x / cap) / T` has cap and T over s."""
    if isinstance(logit_scale, torch.Tensor):
        raise OptionError("logit_scale: got a tensor, expected a number above 0.0")
    if logit_scale == 1:
        return row
    check_number("logit_scale", logit_scale, above=0.0)
    cap = None if row.softcap is None else row.softcap / logit_scale
    return replace(row, softcap=cap, temperature=row.temperature / logit_scale)

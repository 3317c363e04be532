"""Arguments of `token_log_probs` that belong to a row of logits, checked. Needs torch.

Rows are `(N,)` or `(B, T)`; inside they are `(B, T)`, a packed batch `(N, 1)`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from apportion.errors import DtypeError, InputError, OptionError
from apportion.loss.inputs import check_number
from apportion.loss.tensors import as_tensor, can_be_read

# isort: split
# tensors comes first: it says what to install where torch is missing.
import torch

from apportion.kernels.reference.row import Row

Tensor = Any


class RowInputs:
    """The tensors and numbers of one call, by name; `row()` is what the operators take."""

    def __init__(self, shape: Any, device: Any, columns: int) -> None:
        """`shape` is that of the rows, `columns` how many logits there are in each."""
        if len(shape) not in (1, 2):
            got, expected = (*shape, columns), "(N, V) or (B, T, V)"
            raise InputError(f"logits: got shape {got}, expected {expected}")
        if columns < 1:
            raise InputError("logits: got a vocabulary of 0, expected at least 1")
        self.shape, self.device, self.columns = tuple(shape), device, columns
        self.inner = self.shape if len(shape) == 2 else (*self.shape, 1)

    def row(
        self,
        targets: Any,
        mask: Any,
        temperature: Any,
        softcap: float | None,
        place: tuple[int, int],
        batch_invariant: bool,
    ) -> Row:
        """Everything checked that can be without reading tensors.

        `place` is the offset of the first column, and the size of the whole vocabulary.
        """
        check_number("softcap", softcap, above=0.0, none=True)
        return Row(
            self._integers("targets", targets),
            None if mask is None else self._mask(mask),
            self._temperature(temperature),
            None if softcap is None else float(softcap),
            *place,
            batch_invariant,
        )

    def check_values(self, row: Row) -> None:
        """Refuse targets outside the vocabulary and temperatures that are not positive.

        Rows outside the mask may hold anything. This waits for the device.
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
            at = tuple(wrong[name].nonzero()[0].tolist())
            index = ", ".join(map(str, at[: len(self.shape)]))
            got = values[name][at].item()
            raise InputError(f"{name}[{index}]: got {got}, expected {expected[name]}")

    def _shaped(self, name: str, value: Any) -> Tensor:
        tensor = self._tensor(name, value)
        if tuple(tensor.shape) != self.shape:
            got = tuple(tensor.shape)
            raise InputError(f"{name}: got shape {got}, expected {self.shape} as logits have rows")
        return tensor.reshape(self.inner)

    def _tensor(self, name: str, value: Any) -> Tensor:
        if value is None:
            raise InputError(f"{name}: got none, expected shape {self.shape}")
        return as_tensor(name, value, self.device)

    def _integers(self, name: str, value: Any) -> Tensor:
        tensor = self._shaped(name, value)
        if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
            raise DtypeError(f"{name}: got {tensor.dtype}, expected integers")
        return tensor.long()

    def _mask(self, value: Any) -> Tensor:
        tensor = self._shaped("mask", value)
        # Where values are not read, any but 0 counts as 1.
        if tensor.dtype != torch.bool and can_be_read(self.device):
            wrong = ((tensor != 0) & (tensor != 1)).reshape(self.shape)
            if bool(wrong.any()):
                at = wrong.nonzero()[0].tolist()
                got = tensor.reshape(self.shape)[tuple(at)].item()
                raise InputError(f"mask{at}: got {got}, expected 0 or 1")
        return tensor != 0

    def _temperature(self, value: Any) -> Any:
        if not isinstance(value, (torch.Tensor, np.ndarray, list)):
            check_number("temperature", value, above=0.0)
            return float(value)
        tensor = self._tensor("temperature", value)
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


def scaled(row: Row, logit_scale: float) -> Row:
    """A row whose logits are multiplied first: `cap tanh(s x / cap) / T` has cap and T over s."""
    if isinstance(logit_scale, torch.Tensor):
        raise OptionError("logit_scale: got a tensor, expected a number above 0.0")
    if logit_scale == 1:
        return row
    check_number("logit_scale", logit_scale, above=0.0)
    cap = None if row.softcap is None else row.softcap / logit_scale
    return replace(row, softcap=cap, temperature=row.temperature / logit_scale)

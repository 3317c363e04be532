"""Arguments of the policy loss as flat tensors, checked. Needs torch; part of `loss`.

Every tensor is read where the mask is 1 alone: elsewhere it is replaced by a constant
with `torch.where`, so neither values nor gradients of padding matter.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from apportion.credit import Credit
from apportion.errors import DtypeError, InputError, OptionError
from apportion.loss.tensors import as_mask, as_tensor, can_be_read, check_floats, refuse

# isort: split
# tensors comes first: it says what to install where torch is missing.
import torch

from apportion.kernels.reference import batch as spans

Tensor = Any


class Given:
    """The tensors of one call: their shape, mask and rows, and the others by name."""

    def __init__(
        self, own: Tensor, mask: Tensor, offsets: Tensor, advantages: Any, unmasked: bool = False
    ) -> None:
        """`own` is what the loss is differentiated by; it sets shape, device and type.

        `unmasked`: values outside the mask, and float types, stay as they came.
        """
        check_floats("log_probs or values", own)
        as_tensor("log_probs or values", own, own.device)
        self.shape, self.device, self.unmasked = own.shape, own.device, unmasked
        self.dtype = torch.float64 if own.dtype == torch.float64 else torch.float32
        self.rows = self._rows(offsets)
        self.credit = advantages if isinstance(advantages, Credit) else None
        self._advantages = advantages
        self.valid, self.mask_dtype = self._mask(mask)
        self.mask = self.valid.to(self.dtype)
        self.own = self.take("log_probs", own)

    def take(self, name: str, value: Any, fill: float = 0.0) -> Tensor:
        """A tensor of the batch's shape, flat, with `fill` outside the mask."""
        if value is None:
            raise InputError(f"{name}: got none, expected shape {tuple(self.shape)}")
        tensor = self._tensor(name, value)
        if tensor.shape != self.shape:
            got, expected = tuple(tensor.shape), tuple(self.shape)
            raise InputError(f"{name}: got shape {got}, expected {expected} as log_probs")
        # Kernels read neighbours; of one dimension `reshape` keeps the strides.
        flat = tensor.reshape(-1).contiguous()
        return flat if self.unmasked else torch.where(self.valid, flat, flat.new_full((), fill))

    def maybe(self, name: str, value: Any, fill: float = 0.0) -> Tensor | None:
        """As `take`, detached; `None` stays `None`."""
        return None if value is None else self.take(name, value, fill).detach()

    def advantages(self, name: str = "advantages") -> Tensor:
        """Advantages of tokens, spread over the sequence where one was given for each."""
        value = self._advantages
        if self.credit is not None:
            value = self._of_credit(name)
        tensor = self._tensor(name, value).detach()
        if (
            tensor.shape in ((self.rows.count,), (self.rows.count, 1))
            and tensor.shape != self.shape
        ):
            tensor = self.rows.spread(tensor.reshape(-1)).reshape(self.shape)
        return self.take(name, tensor)

    def bound(self, name: str, value: Any) -> Any:
        """A clip width or scale: a number, `None`, or one for each token."""
        if value is None and name == "clip_scale" and self.credit is not None:
            value = self._of_credit("clip_scale") if "clip_scale" in self.credit.values else None
        if value is None or isinstance(value, (int, float)):
            check_number(name, value, least=0.0, none=True)
            return value
        flat = self.take(name, value, fill=1.0).detach()
        if can_be_read(self.device):
            wrong = ~(flat >= 0) & self.valid
            refuse(name, flat.reshape(self.shape), wrong.reshape(self.shape), "at least 0")
        return flat

    def segments(self, level: str, turns: Any, offsets: Any) -> spans.Spans | None:
        """What a ratio is pooled over at the levels `turn` and `segment`."""
        if offsets is not None and level != "segment":
            raise OptionError(f"segment_offsets: got some, expected none where ratio is {level!r}")
        if level == "turn":
            return self._turns(turns)
        return self._segments(offsets) if level == "segment" else None

    def rows_of(self, name: str, value: Any) -> Tensor:
        """One number a row, `(B,)`."""
        if value is None:
            raise InputError(f"{name}: got none, expected shape ({self.rows.count},)")
        tensor = self._tensor(name, value).detach()
        if tensor.shape != (self.rows.count,):
            got = tuple(tensor.shape)
            raise InputError(f"{name}: got shape {got}, expected ({self.rows.count},), one a row")
        return tensor.to(self.dtype)

    def _turns(self, given: Any) -> spans.Spans:
        """Spans of turns: as given, the credit's, or runs of the mask."""
        if isinstance(given, str):
            check_choice("turns", given, ("equal-advantages",))
            return spans.runs_of_value(self.advantages(), self.mask, self.rows)
        if given is None and self.credit is not None:
            given = self._turns_of_credit()
        if given is None:
            return spans.runs_of_mask(self.mask, self.rows)
        ids = as_tensor("turns", given, self.device)
        if ids.is_floating_point() or ids.shape != self.shape:
            got = f"{ids.dtype} of shape {tuple(ids.shape)}"
            raise InputError(f"turns: got {got}, expected integers of shape {tuple(self.shape)}")
        return spans.spans_of_ids(ids.reshape(-1), self.rows)

    def _segments(self, offsets: Any) -> spans.Spans:
        if offsets is None:
            raise InputError("segment_offsets: got none, expected starts where ratio='segment'")
        starts = _starts("segment_offsets", offsets, math.prod(self.shape))
        if not torch.compiler.is_compiling():
            self._check_crossing(starts)
        return spans.spans_of_offsets(starts, math.prod(self.shape), self.device)

    def _check_crossing(self, starts: Tensor) -> None:
        """Refuse a segment that goes beyond the end of its sequence."""
        ends = self._row_ends()
        before = torch.searchsorted(ends, starts[:-1], right=True)
        crossing = (
            starts[1:] > ends[before.clamp(max=len(ends) - 1)] if len(ends) else starts[1:] > 0
        )
        if bool(crossing.any()):
            index = int(crossing.nonzero()[0])
            raise InputError(
                f"segment_offsets[{index + 1}]: got {int(starts[index + 1])}, expected at most "
                f"{int(ends[before[index]])}, where the sequence of the segment's start ends"
            )

    def _row_ends(self) -> Tensor:
        """Where the sequences end, on the host."""
        if self.rows.width is not None:
            return torch.arange(1, self.rows.count + 1) * self.rows.width
        return self.rows.offsets[1:].cpu()

    def _tensor(self, name: str, value: Any) -> Tensor:
        value = as_tensor(name, value, self.device)
        if value.dtype.is_complex:
            raise DtypeError(f"{name}: got {value.dtype}, expected real numbers")
        return value if self.unmasked and value.is_floating_point() else value.to(self.dtype)

    def _mask(self, mask: Any) -> tuple[Tensor, Any]:
        mask = as_tensor("mask", mask, self.device)
        valid = as_mask("mask", mask, self.shape, self.device, "log_probs").reshape(-1)
        if self.credit is not None and "loss_mask" in self.credit.values:
            kept = torch.from_numpy(np.ascontiguousarray(self.credit.tokens("loss_mask")))
            valid = valid & (kept.to(self.device) != 0)
        return valid, mask.dtype

    def _rows(self, offsets: Any) -> spans.Spans:
        if len(self.shape) == 2:
            if offsets is not None:
                raise InputError("offsets: got some, expected none where log_probs are (B, T)")
            return spans.Spans(self.shape[0], width=self.shape[1])
        if len(self.shape) != 1 or offsets is None:
            got = tuple(self.shape)
            raise InputError(f"log_probs: got shape {got}, expected (B, T), or (N,) with offsets")
        starts = _starts("offsets", offsets, self.shape[0])
        return spans.spans_of_offsets(starts, self.shape[0], self.device)

    def _of_credit(self, name: str) -> Any:
        assert self.credit is not None
        flat = self.credit.tokens(name)
        if flat.size != math.prod(self.shape):
            raise InputError(
                f"advantages: got credit of {flat.size} tokens, "
                f"expected {math.prod(self.shape)} as log_probs"
            )
        return flat.reshape(tuple(self.shape))

    def _turns_of_credit(self) -> Any:
        assert self.credit is not None
        _, turns = self.credit.rollouts.turns
        ids = np.zeros(math.prod(self.shape), dtype=np.int64)  # 0: in no turn
        for number, (start, end) in enumerate(turns, start=1):
            ids[start:end] = number
        return ids.reshape(tuple(self.shape))


def check_choice(name: str, got: Any, known: Iterable[str]) -> None:
    """Refuse what is not among `known`."""
    if got not in tuple(known):
        raise OptionError(f"{name}: got {got!r}, expected one of {', '.join(known)}")


def check_options(what: str, given: Mapping[str, Any], known: Iterable[str]) -> None:
    """Refuse options that are not `known`."""
    for name in given:
        if name not in tuple(known):
            raise OptionError(
                f"{what}: unknown option {name!r}, expected one of {', '.join(known)}"
            )


def check_flag(name: str, got: Any) -> None:
    """Refuse what is neither true nor false, such as a text."""
    if not isinstance(got, bool):
        raise OptionError(f"{name}: got {got!r}, expected True or False")


def check_number(
    name: str,
    got: Any,
    *,
    least: float = -math.inf,
    above: float = -math.inf,
    most: float = math.inf,
    none: bool = False,
) -> None:
    """Refuse what is not a number in range; a tensor of one on a GPU is taken as it is."""
    if none and got is None:
        return
    if isinstance(got, torch.Tensor):
        if got.dim():
            raise OptionError(f"{name}: got shape {tuple(got.shape)}, expected a number")
        if not can_be_read(got.device):
            return
        got = got.item()
    # By comparisons, which refuse NaN too: compiled code has symbols in place of numbers.
    number = isinstance(got, (int, float, np.number)) and not isinstance(got, bool)
    if number and -math.inf < got < math.inf and least <= got <= most and got > above:
        return
    lower = f"above {above}" if above > -math.inf else f"at least {least}"
    expected = "a number" + (f" {lower}" if max(least, above) > -math.inf else "")
    expected += f", at most {most}" if most < math.inf else ""
    raise OptionError(f"{name}: got {got!r}, expected {expected}{' or None' if none else ''}")


def _starts(name: str, offsets: Any, size: int) -> Tensor:
    """Offsets, checked on the host to go from 0 to `size` without a step back."""
    # Of a tensor alone: NumPy's arrays have a device too, which is a text.
    device = offsets.device if isinstance(offsets, torch.Tensor) else torch.device("cpu")
    starts = as_tensor(name, offsets, device)
    if starts.is_floating_point() or starts.dtype == torch.bool:
        raise DtypeError(f"{name}: got {starts.dtype}, expected integers")
    if torch.compiler.is_compiling():
        return starts.long()
    starts = starts.cpu().long()
    if starts.dim() != 1 or len(starts) < 1 or starts[0] != 0 or starts[-1] != size:
        raise InputError(f"{name}: got {_short(starts)}, expected to go from 0 to {size}")
    back = starts.diff() < 0
    if bool(back.any()):
        index = int(back.nonzero()[0]) + 1
        raise InputError(f"{name}[{index}]: got {int(starts[index])}, below the one before")
    return starts


def _short(values: Tensor) -> str:
    listed = values.tolist()
    return str(listed) if len(listed) <= 6 else f"[{listed[0]}, ..., {listed[-1]}]"

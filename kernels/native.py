"""The row operators on the processor, by the Rust core: one pass over the logits.

As `kernels/reference/row.py`, which has the formulas and is the oracle. Float16, and
tensors whose columns are not neighbours in memory, stay with plain torch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from apportion import _core
from apportion.kernels.reference.row import Row, Tensor, accumulated_in
from apportion.threads import get_num_threads

TYPES = (torch.float32, torch.float64, torch.bfloat16)


def takes(logits: Tensor, out: Tensor | None = None) -> bool:
    """Whether the core reads these logits; or writes to `out`, where it is given."""
    if out is None:
        return _is_plain(logits)
    return _is_plain(out) and out.dtype == logits.dtype and not logits.is_neg()


def row_stats(logits: Tensor, row: Row, with_entropy: bool) -> tuple[Tensor, Tensor, Tensor]:
    """See `reference.row.row_stats`."""
    kind = accumulated_in(logits)
    places = _places(logits, row)
    found = _core.row_stats(_flat(logits), _rows(logits, row, places), _threads())
    results = []  # each with its own memory, as operators must
    for values in found:
        result = torch.zeros(logits[..., 0].numel(), dtype=kind)
        result[places] = torch.from_numpy(values).to(kind)
        results.append(result.view(logits.shape[:-1]))
    log_probs, lse, entropy = results
    targets = row.targets
    nowhere = (targets < 0) | (targets >= row.vocab_size)
    log_probs[nowhere if row.mask is None else nowhere & row.mask] = torch.nan
    return log_probs, lse, entropy if with_entropy else torch.zeros(0, dtype=kind)


def row_grad(
    logits: Tensor, row: Row, saved: tuple[Tensor, Tensor], upstream: Any, out: Tensor
) -> None:
    """See `reference.row.row_grad`."""
    places = _places(logits, row)

    def listed(values: Tensor | None) -> Any:
        if values is None or not values.numel():
            return np.zeros(len(places))
        return values.detach().reshape(-1)[places].double().numpy()

    in_place = logits.data_ptr() == out.data_ptr()
    if not in_place and logits.stride() != out.stride():
        # The core has one list of places for both. Logits that were shifted come here.
        out.copy_(logits)
        in_place = True
    _core.row_grad(
        None if in_place else _flat(logits),
        _flat(out),
        _rows(out, row, places),
        (listed(saved[0]), listed(saved[1])),
        (listed(upstream[0]), listed(upstream[1]), listed(upstream[2])),
        _threads(),
    )
    if row.mask is not None:
        # After the core, which asks for large pages before anything is written.
        out[~row.mask] = 0


def _is_plain(tensor: Tensor) -> bool:
    """Rows one after another, in a type and a place that NumPy can view."""
    if tensor.device.type != "cpu" or tensor.dtype not in TYPES or tensor.is_neg():
        return False
    (batch, length, vocab), (far, near, step) = tensor.shape, tensor.stride()
    return bool(
        vocab > 0
        and (step == 1 or vocab == 1)
        and (near >= vocab or length <= 1)
        and (far >= (length - 1) * near + vocab or batch <= 1)
    )


def _flat(tensor: Tensor) -> Any:
    """The memory from the first logit to the last, as an array."""
    (batch, length, vocab), (far, near, _) = tensor.shape, tensor.stride()
    size = (batch - 1) * far + (length - 1) * near + vocab if batch * length else 0
    flat = tensor.detach().as_strided((size,), (1,))
    return (flat.view(torch.uint16) if flat.dtype == torch.bfloat16 else flat).numpy()


def _places(logits: Tensor, row: Row) -> Tensor:
    """The rows to read, in order."""
    if row.mask is not None:
        return row.mask.reshape(-1).nonzero().squeeze(-1)
    return torch.arange(logits.shape[0] * logits.shape[1])


def _rows(logits: Tensor, row: Row, places: Tensor) -> Any:
    length, (far, near, _) = max(logits.shape[1], 1), logits.stride()
    starts = places // length * far + places % length * near
    targets = row.targets.reshape(-1)[places] - row.vocab_offset
    if isinstance(row.temperature, torch.Tensor):
        temperatures = row.temperature.detach().reshape(-1)[places].double().numpy()
    else:
        temperatures = np.array([float(row.temperature)])
    return logits.shape[-1], starts.numpy(), targets.numpy(), row.softcap, temperatures


def _threads() -> int:
    return min(get_num_threads(), int(torch.get_num_threads()))

"""Log-probabilities of sampled tokens and the policy's entropy, from logits or a head.

Needs torch (`pip install 'apportion[torch]'`); `import apportion` alone does not import
it. Arguments are checked here; who computes is decided in `apportion.kernels.log_probs`.
"""

from __future__ import annotations

from typing import Any

from apportion.errors import InputError, OptionError
from apportion.loss.rows import Asked, RowInputs
from apportion.loss.tensors import check_floats

# isort: split
# rows comes first: it says what to install where torch is missing.
import torch
import torch.distributed as dist

from apportion.kernels.log_probs import log_probs_and_entropy
from apportion.loss.head import checked

Tensor = Any


def token_log_probs(
    logits: Tensor | tuple[Tensor, ...],
    targets: Tensor,
    *,
    mask: Tensor | None = None,
    temperature: float | Tensor = 1.0,
    softcap: float | None = None,
    logit_scale: float = 1.0,
    entropy: bool = True,
    in_place: bool = False,
    batch_invariant: bool = False,
    check: bool = True,
    vocab_group: Any = None,
    vocab_offset: int | None = None,
    vocab_size: int | None = None,
    memory_budget: int | None = None,
    mode: str = "auto",
) -> tuple[Tensor, Tensor | None]:
    """The log-probability of each target and the entropy of its distribution.

    With `z = softcap * tanh(logit_scale * logits / softcap) / temperature`: `z[target] - lse` and
    `lse - sum p z`, where `lse = log sum exp z` and `p = softmax(z)`. Both can be
    differentiated. Nothing of the logits' size is made but their gradient. Sums and
    results are in float32, in float64 where the logits are. Fused on a GPU (Triton).

    Args:
        logits: `(N, V)` or `(B, T, V)`, any strides; those that predict `targets`, so
            shifted already. A column of `-inf` has no probability; a row of them alone
            has the log-probability `-inf` and an entropy of NaN. Or `(hidden, weight)`
            or `(hidden, weight, bias)`, whose logits are `hidden weight^T + bias`: states
            `(N, H)` or `(B, T, H)` and a head `(V, H)`, `(V,)`, all of one type. Then a
            part of the logits is held at a time, in float32 also where these are in half
            precision; tokens outside the mask are not computed. Under autocast they are
            cast as it would; sharded parameters of FSDP2 are gathered once.
        targets: `(N,)` or `(B, T)`, integers. Outside the mask they may be anything.
        mask: of the targets' shape, booleans, or 0 and 1. Rows outside it are not read:
            their results and gradients are 0, whatever stands there.
        temperature: a number, one for each row, or `(B,)` for each sequence.
        softcap: Gemma's `final_logit_softcapping`; `None` for none.
        logit_scale: multiplies the logits before all else: Cohere's `logit_scale`, one over
            Granite's `logits_scaling`.
        entropy: `False` leaves it out; the second result is then `None`.
        in_place: let the gradient overwrite the logits, which saves as much memory as
            they take; nothing else may read them after this call. `torch.compile` plans
            memory itself and ignores it.
        batch_invariant: no bit of a row depends on the rows beside it. The kernels keep
            this anyhow; on a processor it means one row at a time. With a head, tokens
            are projected 128 at a time, or what the budget holds, padded with zeros.
        check: look for targets outside the vocabulary and for temperatures that are not
            positive, which on a GPU waits for it. Without it, and in compiled code, the
            results of such rows are NaN.
        vocab_group: the `torch.distributed` group whose processes hold the vocabulary's
            parts, in the order of ranks: `logits` are this rank's columns, everything
            else is the same on every rank. Results are those of the whole vocabulary, on
            every rank; each gets the gradient of its own columns, provided that all
            ranks compute the same loss.
        vocab_offset: with a group, this rank's first column, default `rank * V`.
        vocab_size: with a group, of the whole vocabulary, default `ranks * V`.
        memory_budget: with a head, bytes of logits held at a time, default 160 MiB; at
            least the logits of one token. Beside them there are float32 sums as large as
            the hidden states, and as a part of the head.
        mode: with a head, how its gradient is computed. `"recompute"`: logits are computed
            again in the backward pass, slab by slab of the vocabulary. `"frozen"`, for a
            head that is not trained: the forward pass keeps the gradient by `hidden` of
            each log-probability, and the backward pass scales it; with a gradient of the
            entropy it recomputes. `"auto"`: frozen where it can be.

    Returns:
        `log_probs` and `entropy`, of the targets' shape.

    Raises:
        DtypeError: logits that are no floats, targets that are no integers.
        InputError: shapes, devices, targets or a mask that do not fit.
        OptionError: a temperature or softcap that is not positive, a place in the
            vocabulary without a group.
    """
    asked = Asked(targets, mask, temperature, softcap, logit_scale, batch_invariant, check)
    if isinstance(logits, tuple):
        if in_place or vocab_group is not None:
            name = "in_place" if in_place else "vocab_group"
            raise OptionError(f"{name}: got one, expected none with a head")
        log_probs, entropies = checked(logits, asked, memory_budget).log_probs(mode, entropy)
        return log_probs, entropies if entropy else None
    if memory_budget is not None or mode != "auto":
        name = "mode" if memory_budget is None else "memory_budget"
        raise OptionError(f"{name}: got one, expected none without a head")
    check_floats("logits", logits)
    if hasattr(logits, "to_local"):
        expected = "this rank's part, logits.to_local(), and vocab_group if columns are split"
        raise InputError(f"logits: got a DTensor, expected {expected}")
    in_place = in_place and logits.requires_grad and not torch.compiler.is_compiling()
    if in_place and any(
        stride == 0 < size - 1 for stride, size in zip(logits.stride(), logits.shape, strict=True)
    ):
        raise InputError("logits: got an expanded tensor, expected its own memory for in_place")
    columns = logits.shape[-1] if logits.dim() else 0
    rows = RowInputs(logits.shape[:-1], logits.device, columns)
    place = vocabulary_place(columns, vocab_group, vocab_offset, vocab_size)
    log_probs, entropies = log_probs_and_entropy(
        logits if logits.dim() == 3 else logits.unsqueeze(1),
        rows.row(asked, place),
        entropy,
        in_place,
        vocab_group,
    )
    return log_probs.reshape(rows.shape), entropies.reshape(rows.shape) if entropy else None


def vocabulary_place(
    columns: int, group: Any, offset: int | None, size: int | None
) -> tuple[int, int]:
    """The first column's place in the vocabulary, and the vocabulary's size."""
    if group is None:
        for name, value in (("vocab_offset", offset), ("vocab_size", size)):
            if value is not None:
                raise OptionError(f"{name}: got {value!r}, expected none without vocab_group")
        return 0, columns
    first = dist.get_rank(group) * columns if offset is None else offset
    whole = dist.get_world_size(group) * columns if size is None else size
    if first < 0 or first + columns > whole:
        got = f"columns {first} to {first + columns - 1} of {whole}"
        raise OptionError(f"vocab_offset, vocab_size: got {got}, expected them to lie within")
    return first, whole

"""Log-probabilities from any causal model of transformers, without its logits.

    from apportion.integrations.transformers import patch_log_probs

    model = patch_log_probs(model)
    out = model(input_ids, attention_mask=attention_mask, targets=targets)
    out.log_probs, out.entropy

Without `targets` the model is as it was. Needs transformers and torch.
"""

from __future__ import annotations

import functools
import math
import types
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from apportion.errors import ExtraMissingError, InputError

try:
    import torch
    from transformers.modeling_outputs import ModelOutput
except ImportError as error:
    raise ExtraMissingError(
        "apportion.integrations.transformers needs transformers: pip install transformers torch"
    ) from error

from apportion.loss.log_probs import token_log_probs

Tensor = Any

OPTIONS = ("temperature", "entropy", "memory_budget", "mode", "check")
"""Options of `token_log_probs` that a patched model takes beside `targets`."""

MARK = "_apportion_log_probs"
"""Of a patched forward pass. A model that was pickled comes back without the patch."""

PROBE = (1e6, -1e6, 0.0, 1.0, 20.0)
"""What the head is made to answer, to see what the model does to logits afterwards."""


@dataclass
class LogProbsOutput(ModelOutput):  # type: ignore[misc]
    """What a patched model returns where it was given `targets`.

    Attributes:
        log_probs: `(B, T)`, 0 where there was no target.
        entropy: `(B, T)`, or `None` where it was not asked for.
        past_key_values: these and the following as the model gives them.
        hidden_states: of all layers.
        attentions: of all layers.
        router_logits: of a mixture of experts.
        aux_loss: of a mixture of experts.
    """

    log_probs: Tensor = None
    entropy: Tensor = None
    past_key_values: Any = None
    hidden_states: Any = None
    attentions: Any = None
    router_logits: Any = None
    aux_loss: Any = None


def patch_log_probs(model: Any) -> Any:
    """Let a causal model compute log-probabilities of given tokens instead of logits.

    After it, `model(..., targets=targets)` returns a `LogProbsOutput`. `targets`, `(B, T)`,
    holds the token that each position predicts, so it is shifted by one against the input;
    positions with a negative number, such as -100, are not computed and give 0. Beside it
    the options `temperature`, `entropy`, `memory_budget`, `mode` and `check` of
    `apportion.token_log_probs` are taken. Everything else is the model's own, and so is
    its forward pass up to the head: the head's input is caught there. A scale or softcap
    that the model applies to its logits is found in the first call. Anything else that it
    does to them is an error that says so.

    Args:
        model: of transformers, with a linear head (`get_output_embeddings`).

    Returns:
        The same model. Patching it again changes nothing.

    Raises:
        InputError: no linear head; `labels` beside `targets`; logits that the model
            changes in another way than by a scale and a softcap.
    """
    if hasattr(getattr(model, "__dict__", {}).get("forward"), MARK):
        return model
    if not callable(getattr(model, "get_output_embeddings", None)):
        got = type(model).__name__
        raise InputError(f"model: got {got}, expected a model of transformers with a head")
    _head(model)
    original = model.forward
    unbound = getattr(original, "__func__", None)
    found: dict[str, Any] = {}  # what is done to logits after the head, once it is known

    @functools.wraps(original)
    def forward(self: Any, *args: Any, targets: Tensor | None = None, **kwargs: Any) -> Any:
        # A copy of the model runs its own weights.
        run = original if unbound is None else functools.partial(unbound, self)
        own = {name: kwargs.pop(name) for name in OPTIONS if targets is not None and name in kwargs}
        if targets is None:
            return run(*args, **kwargs)
        if kwargs.get("labels") is not None:
            raise InputError("labels: got some, expected none beside targets")
        kwargs["return_dict"] = True
        head = _head(self)
        with _probed(head) as caught:
            out = run(*args, **kwargs)
        if not found:
            found.update(_scale_and_softcap(type(self).__name__, out.logits))
        log_probs, entropy = _log_probs(head, caught, targets, {**found, **own})
        names = ("past_key_values", "hidden_states", "attentions", "router_logits", "aux_loss")
        return LogProbsOutput(log_probs, entropy, *(getattr(out, name, None) for name in names))

    setattr(forward, MARK, True)
    model.forward = types.MethodType(forward, model)
    return model


def _head(model: Any) -> Any:
    head = model.get_output_embeddings()
    if not isinstance(head, torch.nn.Linear):
        got = "no head" if head is None else type(head).__name__
        raise InputError(f"model: got {got}, expected a head that is torch.nn.Linear")
    return head


@contextmanager
def _probed(head: Any) -> Iterator[list[Tensor]]:
    """While it lasts, the head keeps what it is given and answers `PROBE` at every token."""
    caught: list[Tensor] = []

    def answer(hidden: Tensor) -> Tensor:
        caught.append(hidden)
        # float64: what is done to it afterwards is then known to the last digit.
        kind = torch.float32 if hidden.device.type == "mps" else torch.float64
        probe = torch.tensor(PROBE, dtype=kind, device=hidden.device)
        return probe.repeat(*hidden.shape[:-1], 1)

    before = head.__dict__.get("forward")
    head.forward = answer
    try:
        yield caught
    finally:
        if before is None:
            del head.forward
        else:
            head.forward = before


def _scale_and_softcap(name: str, logits: Tensor) -> dict[str, Any]:
    """`scale` and `cap` such that the model's logits are `cap tanh(scale x / cap)`."""
    answers = logits.reshape(-1, logits.shape[-1])[:1].double().flatten().tolist()
    if len(answers) == len(PROBE):
        top, unit = answers[0], answers[3]
        capped = abs(top) < abs(unit) * 1e5
        cap = top if capped else None
        scale = cap * math.atanh(unit / cap) if cap and abs(unit / cap) < 1 else unit
        expected = [x * scale if cap is None else cap * math.tanh(scale * x / cap) for x in PROBE]
        near = [math.isclose(a, b, rel_tol=1e-5) for a, b in zip(answers, expected, strict=True)]
        if all(near) and scale > 0:
            return {"logit_scale": scale, "softcap": cap}
    given = dict(zip(PROBE, answers, strict=False))
    raise InputError(
        f"model: got {name}, which makes logits of its head's answers so: {given}; "
        "expected a scale and a softcap"
    )


def _log_probs(
    head: Any, caught: list[Tensor], targets: Tensor, options: dict[str, Any]
) -> tuple[Tensor, Tensor | None]:
    if len(caught) != 1:
        raise InputError(f"model: got {len(caught)} calls of its head, expected 1")
    hidden, targets = caught[0], torch.as_tensor(targets, device=caught[0].device)
    if targets.shape != hidden.shape[:-1]:
        got, expected = tuple(targets.shape), tuple(hidden.shape[:-1])
        raise InputError(f"targets: got shape {got}, expected {expected}, one for each position")
    given = (hidden, head.weight, head.bias)
    return token_log_probs(given, targets, mask=targets >= 0, **options)

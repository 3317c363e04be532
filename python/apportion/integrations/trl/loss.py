"""TRL's policy loss by `apportion.policy_loss`, at the trainer's settings. Needs torch.

What stands around the policy loss in TRL is kept: the mask of high entropies, the static
entropy bonus, the router's loss, and division by gradient accumulation steps.
"""

from __future__ import annotations

from typing import Any

import torch

from apportion.errors import OptionError
from apportion.loss.policy import policy_loss
from apportion.loss.settings import settle

CLIPPED = ("grpo", "bnpo", "dr_grpo", "dapo", "luspo")
BY_ITEMS = ("dapo", "cispo", "vespo")
"""Divided by tokens of the generation batch, rather than by accumulation steps."""

MODALITIES = (
    *("pixel_values", "image_grid_thw", "num_images", "pixel_attention_mask", "spatial_shapes"),
    *("num_tiles", "image_sizes", "token_type_ids", "mm_token_type_ids", "image_position_ids"),
)


def check_loss(trainer: Any) -> None:
    """Refuse a loss, options or settings of the trainer that do not go together."""
    name, options = trainer.loss_name, trainer.loss_options
    if name not in ("trl", "apportion"):
        raise OptionError(f"loss: got {name!r}, expected 'trl' or 'apportion'")
    if name == "trl":
        if options:
            raise OptionError(f"loss_options: got {options!r}, expected none with loss='trl'")
        return
    settle(trainer.loss_type, "trl", options)
    if trainer.use_adaptive_entropy:
        raise OptionError("use_adaptive_entropy: got True, which loss='apportion' does not do")


def compute_loss(trainer: Any, model: Any, inputs: Any) -> Any:
    """The loss of a micro-batch, as `GRPOTrainer._compute_loss` returns it."""
    ids, mask = inputs["completion_ids"], inputs["completion_mask"]
    mask = mask * inputs.get("tool_mask", 1)
    log_probs, entropies, router_loss = trainer._get_per_token_logps_and_entropies(
        model,
        torch.cat([inputs["prompt_ids"], ids], dim=1),
        torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1),
        ids.size(1),
        compute_entropy=True,
        compute_aux_loss=trainer.aux_loss_enabled,
        **{name: inputs.get(name) for name in MODALITIES},
    )
    training = trainer.model.training
    steps = trainer.current_gradient_accumulation_steps if training else 1.0
    kept = _high_entropies(trainer, entropies, mask)
    loss, metrics = _policy_loss(trainer, inputs, log_probs, mask, kept)
    if trainer.loss_type not in BY_ITEMS:
        loss = loss / steps
    metrics = {f"loss/{name}": value for name, value in metrics.items()}
    if "loss/kl" in metrics:
        metrics["kl"] = metrics.pop("loss/kl")
    valid = mask.sum()
    metrics["entropy"] = (entropies.detach() * mask).sum() / valid.clamp(min=1.0)
    for name, value in metrics.items():
        _log(trainer, name, value, valid)
    if trainer._entropy_bonus_enabled:
        _log(trainer, "policy_loss", loss.detach() * steps, torch.ones_like(valid))
        acting = mask if kept is None else mask * kept
        bonus = (entropies * acting).sum() / acting.sum().clamp(min=1.0)
        loss = loss - trainer.entropy_coef * bonus / steps
    if trainer.aux_loss_enabled:
        _log(trainer, "aux_loss", router_loss.detach(), torch.ones_like(valid))
        loss = loss + trainer.router_aux_loss_coef * router_loss / steps
    return loss


def _policy_loss(trainer: Any, inputs: Any, log_probs: Any, mask: Any, kept: Any) -> Any:
    old = inputs.get("old_per_token_logps")
    old = log_probs.detach() if old is None else old
    advantages = inputs["advantages"]
    if advantages.dim() == 1:
        advantages = advantages.unsqueeze(1).expand_as(log_probs)
    if kept is not None:
        advantages = advantages * kept  # every loss of TRL is 0 where A is
    sampler = None
    if trainer.off_policy_mask_threshold is not None:
        sampler = inputs.get("sampling_per_token_logps", old)
        sampler = torch.where(sampler.isnan(), log_probs.detach(), sampler)  # no evidence
    return policy_loss(
        log_probs,
        old,
        advantages,
        mask,
        loss=trainer.loss_type,
        like="trl",
        ref_log_probs=inputs.get("ref_per_token_logps"),
        rollout_log_probs=sampler,
        rollout_weights=_sampler_weights(trainer, inputs, mask),
        num_tokens=_items(trainer, inputs) if trainer.loss_type in BY_ITEMS else None,
        **{**_options(trainer, inputs.get("credit_clip_scale")), **trainer.loss_options},
    )


def _options(trainer: Any, scale: Any) -> dict[str, Any]:
    """The trainer's settings in our words; `scale` multiplies clip widths, token by token."""
    arguments, name = trainer.args, trainer.loss_type
    pooled = trainer.importance_sampling_level == "sequence"
    options: dict[str, Any] = {
        "ratio": "sequence" if pooled else "token",
        "ratio_grad": "mean" if pooled else "token",
        "off_policy_threshold": trainer.off_policy_mask_threshold,
        "kl_coef": trainer.beta,
        "kl_times_ratio": arguments.use_bias_correction_kl,
    }
    if name in CLIPPED:
        options |= {"clip_low": trainer.epsilon_low, "clip_high": trainer.epsilon_high}
        options |= {"clip_scale": scale, "ratio_cap": arguments.delta}
    elif name == "cispo":
        bound = trainer.epsilon_high
        options["ratio_cap"] = bound if scale is None else bound * scale
    elif name == "sapo":
        options["tau_pos"] = arguments.sapo_temperature_pos
        options["tau_neg"] = arguments.sapo_temperature_neg
    elif name == "vespo":
        for option in ("k_pos", "lambda_pos", "k_neg", "lambda_neg"):
            options[option] = getattr(arguments, f"vespo_{option}")
    if name == "dr_grpo":
        options["scale_factor"] = trainer.max_completion_length
    return options


def _sampler_weights(trainer: Any, inputs: Any, mask: Any) -> Any:
    """TRL's importance ratio of the sampler, `(B, T)`, where it has one."""
    ratio = inputs.get("importance_sampling_ratio")
    weighs = trainer.use_vllm and trainer.vllm_importance_sampling_correction
    if ratio is None or not (weighs or trainer.loss_type == "vespo"):
        return None
    if ratio.shape[1] == 1 and trainer.loss_type == "vespo":
        # A factor of the sequence, which VESPO multiplies from its tokens: it goes to the first.
        first = (mask.cumsum(dim=1) == 1) & (mask > 0)
        return torch.where(first, ratio, torch.ones_like(ratio))
    return ratio.expand(mask.shape)


def _items(trainer: Any, inputs: Any) -> Any:
    """TRL's count of tokens in an accumulation window, divided by processes."""
    count = inputs["num_items_in_batch"].clamp(min=1.0) / trainer.accelerator.num_processes
    if not trainer.model.training:
        return count
    return count * trainer.current_gradient_accumulation_steps / trainer.args.steps_per_generation


def _high_entropies(trainer: Any, entropies: Any, mask: Any) -> Any:
    """1 for the tokens of highest entropy over all processes, or `None` for all tokens."""
    share = trainer.top_entropy_quantile
    if share >= 1.0:
        return None
    return trainer.get_high_entropy_mask(entropies, mask, 1 - share).to(mask.dtype)


def _log(trainer: Any, name: str, mean: Any, weight: Any) -> None:
    """A mean over all processes, each weighed by its tokens."""
    totals = trainer.accelerator.reduce(
        torch.stack([mean.float() * weight, weight.float()]), reduction="sum"
    )
    mode = "train" if trainer.model.training else "eval"
    trainer._metrics[mode][name].append((totals[0] / totals[1].clamp(min=1.0)).item())

"""Reference cases of TRL's, OpenRLHF's, SkyRL's, A2TGPO's and A3's policy losses. Needs torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

import apportion as ap
from golden_replay import Case, Outputs, hyper
from golden_tensors import given, gradient, tensor


def openrlhf_kl(case: Case) -> Outputs:
    tensors = [tensor(case, name) for name in ("log_probs", "log_probs_base")]
    return {"kl": ap.kl_penalty(*tensors, hyper(case, "kl_estimator"), like="openrlhf")}


def trl_grpo_loss(case: Case) -> Outputs:
    names = ("per_token_logps", "old_per_token_logps", "advantages", "mask")
    tensors = given(case, *names)
    name = hyper(case, "loss_type")
    options: dict[str, Any] = {
        "kl_coef": hyper(case, "beta"),
        "kl_times_ratio": hyper(case, "use_bias_correction_kl", False),
        "off_policy_threshold": hyper(case, "off_policy_mask_threshold"),
        "top_entropy": hyper(case, "top_entropy_quantile"),
    }
    if hyper(case, "importance_sampling_level") == "sequence":
        options |= {"ratio": "sequence", "ratio_grad": "mean"}
    if name in ("dapo", "grpo", "bnpo", "dr_grpo", "luspo"):
        options["clip_low"] = hyper(case, "epsilon_low")
        options["clip_high"] = hyper(case, "epsilon_high")
        options["ratio_cap"] = hyper(case, "delta")
    elif name == "cispo":
        options["ratio_cap"] = hyper(case, "epsilon_high")
    else:
        prefix = {"sapo": "sapo_temperature_", "vespo": "vespo_"}[name]
        ours = {"sapo": "tau_", "vespo": ""}[name]
        for key, value in case["meta"]["hyperparameters"].items():
            if key.startswith(prefix):
                options[ours + key.removeprefix(prefix)] = value
    if name == "dr_grpo":
        options["scale_factor"] = hyper(case, "max_completion_length")
    items = hyper(case, "num_items_in_batch") if name in ("dapo", "cispo", "vespo") else None
    loss, _ = ap.policy_loss(
        *tensors,
        loss=name,
        like="trl",
        ref_log_probs=tensor(case, "ref_per_token_logps"),
        entropies=tensor(case, "entropies"),
        num_tokens=None if items is None else max(items, 1.0),
        **options,
    )
    return {"loss": loss.item(), "grad_per_token_logps": gradient(loss, tensors[0])}


def openrlhf_policy_loss(case: Case) -> Outputs:
    tensors = given(case, "log_probs", "old_log_probs", "advantages", "action_mask")
    sampler, mask = tensor(case, "rollout_log_probs"), tensors[3]
    options = {
        ours: hyper(case, theirs)
        for ours, theirs in {
            "clip_low": "clip_eps_low",
            "clip_high": "clip_eps_high",
            "dual_clip": "dual_clip",
        }.items()
        if hyper(case, theirs) is not None
    }
    if not hyper(case, "token_level_loss", True):
        options["loss_agg_mode"] = "seq-mean-token-mean"
    weights = None
    if hyper(case, "enable_vllm_is_correction", False):
        low, high = hyper(case, "vllm_is_truncated_threshold")
        kind = hyper(case, "vllm_is_correction_type")
        weights, _ = ap.rollout_weights(
            tensors[1],
            sampler,
            mask,
            rule="truncate" if kind == "tis" else "mask",
            gate="geometric" if kind == "seq-mask-tis" else "token",
            low=low,
            high=high,
        )
    loss, metrics = ap.policy_loss(
        *tensors,
        loss=hyper(case, "policy_loss_type", "ppo"),
        like="openrlhf",
        rollout_log_probs=sampler,
        rollout_weights=weights,
        **options,
    )
    return {
        "loss": loss.item(),
        "grad_log_probs": gradient(loss, tensors[0]),
        "clip_ratio": metrics["clip_fraction"],
        "ppo_kl": metrics["approx_kl"],
        "vllm_kl": None if weights is None else metrics["rollout_kl"],
    }


def openrlhf_gates(case: Case) -> Outputs:
    tensors = given(case, "log_probs", "old_log_probs", "advantages", "action_mask")
    sampler = tensor(case, "rollout_log_probs")
    low, high = hyper(case, "is_correction_threshold")
    weights, _ = ap.rollout_weights(
        tensors[1],
        sampler,
        tensors[3],
        rule="truncate" if hyper(case, "is_correction_mode") == "clip" else "mask",
        gate="geometric" if hyper(case, "is_correction_level") == "seq" else "token",
        statistic=hyper(case, "is_correction_gating"),
        low=low,
        high=high,
    )
    by_token = hyper(case, "token_level_loss")
    loss, metrics = ap.policy_loss(
        *tensors,
        like="openrlhf",
        rollout_log_probs=sampler,
        rollout_weights=weights,
        clip_low=hyper(case, "clip_eps_low"),
        clip_high=hyper(case, "clip_eps_high"),
        loss_agg_mode="token-mean" if by_token else "seq-mean-token-mean",
    )
    return {
        "loss": loss.item(),
        "grad_log_probs": gradient(loss, tensors[0]),
        "clip_ratio": metrics["clip_fraction"],
        "ppo_kl": metrics["approx_kl"],
        "vllm_kl": metrics["rollout_kl"],
    }


def skyrl_policy_loss(case: Case) -> Outputs:
    name, reduction = hyper(case, "policy_loss_type"), hyper(case, "loss_reduction")
    scaled = name in ("clip_cov", "kl_cov", "cross_entropy")
    advantages = "scaled_advantages" if scaled else "advantages"
    tensors = given(case, "log_probs", "old_log_probs", advantages, "loss_mask")
    lengths = tensors[3].sum(-1)
    prompts = torch.tensor(hyper(case, "prompts"))
    options: dict[str, Any] = {
        "token_mean": {},
        "sequence_mean": {"loss_agg_mode": "seq-mean-token-mean"},
        "seq_mean_token_sum_norm": {
            "loss_agg_mode": "dr-grpo",
            "scale_factor": float(hyper(case, "max_seq_len")),
        },
        "prompt_mean": {
            "loss_agg_mode": "prompt-mean",
            "num_prompts": len(prompts.unique()),
            "prompt_tokens": torch.stack([lengths[prompts == p].sum() for p in prompts]),
        },
    }[reduction]
    if scaled:
        options = {}
    if name == "clip_cov":
        names = {"cov_ratio": "clip_ratio", "cov_low": "clip_cov_lb", "cov_high": "clip_cov_ub"}
        options = {ours: hyper(case, theirs) for ours, theirs in names.items()}
    seed = hyper(case, "torch_manual_seed", 0)
    loss, _ = ap.policy_loss(
        *tensors,
        like="skyrl",
        loss=name,
        generator=torch.Generator().manual_seed(seed),
        **options,
    )
    return {"loss": loss.item(), "grad_log_probs": gradient(loss, tensors[0])}


def a2tgpo_loss(case: Case) -> Outputs:
    tensors = given(case, "log_prob", "old_log_prob", "advantages", "response_mask")
    scale = tensor(case, "clip_scale") if hyper(case, "dynamic_clip", False) else None
    loss, metrics = ap.policy_loss(
        *tensors,
        loss="gspo",
        ratio="turn",
        turns="equal-advantages",
        clip_low=hyper(case, "cliprange_low"),
        clip_high=hyper(case, "cliprange_high"),
        clip_scale=scale,
        loss_agg_mode=hyper(case, "loss_agg_mode"),
        count_rows="all",
    )
    return sequence_outputs(loss, metrics, tensors[0])


def a3_loss(case: Case) -> Outputs:
    tensors = given(case, "log_prob", "old_log_prob", "advantages", "response_mask")
    width = hyper(case, "cliprange")
    loss, metrics = ap.policy_loss(*tensors, loss="sequence_ppo", clip_low=width, clip_high=width)
    return sequence_outputs(loss, metrics, tensors[0])


def sequence_outputs(
    loss: torch.Tensor, metrics: Mapping[str, torch.Tensor], log_probs: torch.Tensor
) -> Outputs:
    return {
        "loss": loss.item(),
        "clip_fraction": metrics["clip_fraction"],
        "approx_kl": metrics["approx_kl"],
        "grad_log_prob": gradient(loss, log_probs),
    }

"""Reference cases of policy losses as calls of the public API. Needs torch.

Merged into `golden_replay.REPLAY` by `test_golden.py` where torch is installed;
where it is not, these folders wait.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

import apportion as ap
from golden_replay import Case, Outputs, hyper
from golden_replay_trainers import (
    a2tgpo_loss,
    a3_loss,
    openrlhf_gates,
    openrlhf_kl,
    openrlhf_policy_loss,
    skyrl_policy_loss,
    trl_grpo_loss,
)
from golden_tensors import CLOSE, given, gradient, same_numbers, tensor

VERL_METRICS = {
    "actor/ppo_kl": "approx_kl",
    "actor/pg_clipfrac": "clip_fraction",
    "actor/pg_clipfrac_lower": "dual_clip_fraction",
}


def verl_counts(case: Case) -> dict[str, Any]:
    info = hyper(case, "global_batch_info", {}) or {}
    names = {
        "dp_size": "dp_size",
        "batch_num_tokens": "num_tokens",
        "global_batch_size": "num_sequences",
        "loss_scale_factor": "scale_factor",
    }
    given = {**case["meta"]["hyperparameters"], **info}
    return {ours: given[theirs] for theirs, ours in names.items() if given.get(theirs) is not None}


def verl_loss(name: str, *own: str) -> Callable[[Case], Outputs]:
    """verl's loss `name`; `own` are its options beside clip widths and aggregation."""
    options = {
        "cov_ratio": f"{name}_ratio",
        "cov_low": "clip_cov_lb",
        "cov_high": "clip_cov_ub",
        "cov_kl_coef": "ppo_kl_coef",
        "dual_clip": "clip_ratio_c",
        "tau_pos": "tau_pos",
        "tau_neg": "tau_neg",
        "ratio_cap": "clip_ratio_c",
        "beta": "dro_beta",
    }

    def replay(case: Case) -> Outputs:
        old = "rollout_log_prob" if name == "reinforce" else "old_log_prob"
        tensors = given(case, "log_prob", old, "advantages", "response_mask")
        settings = {o: hyper(case, options[o]) for o in own if hyper(case, options[o]) is not None}
        if "clip_low" in ap.losses()[ENTRIES.get(name, name)].options:
            for side in ("low", "high"):
                fallback = hyper(case, "clip_ratio", 0.2)
                settings[f"clip_{side}"] = hyper(case, f"clip_ratio_{side}", fallback)
        if name not in ("gspo", "sapo", "geo_mean"):  # they ignore the mode
            settings["loss_agg_mode"] = hyper(case, "loss_agg_mode")
        weights = "rollout_is_weights"
        seed = hyper(case, "torch_manual_seed", 0)
        loss, got = ap.policy_loss(
            *tensors,
            loss=name,
            like="verl",
            rollout_weights=tensor(case, weights) if weights in case["inputs"] else None,
            generator=torch.Generator().manual_seed(seed),
            **verl_counts(case),
            **settings,
        )
        zero = torch.zeros(())
        metrics = {t: got.get(o, zero) for t, o in VERL_METRICS.items()}
        if name == "geo_mean":
            metrics["actor/pg_clipfrac_lower"] = got["clip_fraction_lower"]
        if name == "kl_cov":
            metrics["actor/ppo_kl"] = got["abs_kl"]
        rtol = case["meta"].get("rtol") or CLOSE["rtol"]
        return {
            "loss": loss.item(),
            "grad_log_prob": gradient(loss, tensors[0]),
            "metrics": same_numbers(metrics, rtol),
        }

    return replay


ENTRIES = {"vanilla": "ppo"}


def policy_loss(case: Case) -> Outputs:
    name = case["meta"]["function"].rsplit("compute_policy_loss_", 1)[1]
    return verl_loss(name, *(("dual_clip",) if name == "vanilla" else ()))(case)


def verl_agg_loss(case: Case) -> Outputs:
    losses, mask = given(case, "loss_mat", "loss_mask")
    got = ap.aggregate(
        losses,
        mask,
        loss_agg_mode=hyper(case, "loss_agg_mode"),
        row_eps=1e-8,
        count_floor=0.0,
        **verl_counts(case),
    )
    return {"loss": got.item(), "grad_loss_mat": gradient(got, losses)}


def verl_kl_penalty(case: Case) -> Outputs:
    log_probs, reference = given(case, "logprob", "ref_logprob")
    kind = hyper(case, "kl_penalty")
    value = ap.kl_penalty(log_probs, reference, kind, like="verl")
    slope = gradient(value.sum(), log_probs)

    def straight_through(want: str) -> bool:
        """The reference fails to take the `+` off; ours is what it was meant to be."""
        bare = ap.kl_penalty(log_probs.detach(), reference, kind[:-1], like="verl")
        difference = (log_probs - reference).detach().numpy()
        return (
            want == "NotImplementedError"
            and np.allclose(value.detach(), bare)
            and np.allclose(slope, difference)
        )

    return {"kl": value.detach(), "grad_logprob_of_sum": slope, "error": straight_through}


def verl_kl_controller(case: Case) -> Outputs:
    controller = ap.AdaptiveKLController(
        coef=hyper(case, "init_kl_coef"),
        target=hyper(case, "target_kl"),
        horizon=hyper(case, "horizon"),
    )
    updates = case["inputs"]["updates"]
    return {"coef_after_each": [controller.update(kl, int(steps)) for kl, steps in updates]}


def verl_rollout_is_weights(case: Case) -> Outputs:
    ratio, mask = tensor(case, "log_ratio"), tensor(case, "response_mask")
    weights, got = ap.rollout_weights(
        ratio,
        torch.zeros_like(ratio),
        mask,
        level=hyper(case, "rollout_is"),
        high=hyper(case, "threshold"),
        normalise=hyper(case, "batch_normalize"),
    )
    metrics = {f"rollout_is_{name}": value for name, value in got.items()}
    for side in ("high", "low"):
        metrics[f"rollout_is_ratio_fraction_{side}"] = metrics[f"rollout_is_fraction_{side}"]
    return {"weights": weights, "metrics": same_numbers(metrics)}


def verl_rollout_rejection(case: Case) -> Outputs:
    ratio, mask = tensor(case, "log_ratio"), tensor(case, "response_mask")
    limit = hyper(case, "threshold")
    if isinstance(limit, str):
        low, high = limit.split("_")
        limit = (float(low), float(high))
    rules = {hyper(case, "rollout_rs"): limit}
    return {"modified_mask": ap.rollout_rejection(ratio, torch.zeros_like(ratio), mask, rules)[0]}


def verl_value_loss(case: Case) -> Outputs:
    tensors = given(case, "vpreds", "values", "returns", "response_mask")
    loss, metrics = ap.value_loss(
        *tensors,
        clip=hyper(case, "cliprange_value"),
        loss_agg_mode=hyper(case, "loss_agg_mode"),
        row_eps=1e-8,
    )
    return {
        "loss": loss.item(),
        "clipfrac": metrics["clip_fraction"],
        "grad_vpreds": gradient(loss, tensors[0]),
    }


REPLAY: dict[str, Callable[[Case], Outputs]] = {
    "policy_loss": policy_loss,
    "verl_loss_vanilla": verl_loss("vanilla", "dual_clip"),
    "verl_loss_vanilla_clip_higher": verl_loss("vanilla", "dual_clip"),
    "verl_loss_gspo": verl_loss("gspo"),
    "verl_loss_sapo": verl_loss("sapo", "tau_pos", "tau_neg"),
    "verl_loss_cispo": verl_loss("cispo"),
    "verl_loss_gpg": verl_loss("gpg"),
    "verl_loss_reinforce": verl_loss("reinforce"),
    "verl_loss_geo_mean": verl_loss("geo_mean"),
    "verl_loss_clip_cov": verl_loss("clip_cov", "cov_ratio", "cov_low", "cov_high"),
    "verl_loss_kl_cov": verl_loss("kl_cov", "cov_ratio", "cov_kl_coef"),
    "verl_loss_dppo_tv": verl_loss("dppo_tv", "ratio_cap"),
    "verl_loss_dppo_kl": verl_loss("dppo_kl", "ratio_cap"),
    "verl_loss_dro": verl_loss("dro", "beta"),
    "verl_agg_loss": verl_agg_loss,
    "verl_kl_penalty": verl_kl_penalty,
    "verl_kl_controller": verl_kl_controller,
    "verl_rollout_is_weights": verl_rollout_is_weights,
    "verl_rollout_rejection": verl_rollout_rejection,
    "verl_value_loss": verl_value_loss,
    "trl_grpo_loss": trl_grpo_loss,
    "openrlhf_policy_loss": openrlhf_policy_loss,
    "openrlhf_policy_loss_gates": openrlhf_gates,
    "openrlhf_kl": openrlhf_kl,
    "skyrl_policy_loss": skyrl_policy_loss,
}

LOSS_CASES = {"a2tgpo": a2tgpo_loss, "a3": a3_loss}
"""Policy losses among the cases of credit methods: those that have a `log_prob`."""


def with_losses(replay: Mapping[str, Callable[[Case], Outputs]]) -> dict[str, Any]:
    """The entries of `LOSS_CASES` that replay a folder's losses, and its other cases as before."""

    def both(folder: str) -> Callable[[Case], Outputs]:
        return lambda case: (
            LOSS_CASES[folder](case) if "log_prob" in case["inputs"] else replay[folder](case)
        )

    return {folder: both(folder) for folder in LOSS_CASES}

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
from golden_replay import Case, Outputs, array, hyper

CLOSE = {"rtol": 2e-5, "atol": 2e-6}


def tensor(case: Case, name: str) -> torch.Tensor:
    double = case["meta"].get("dtype") == "float64"
    return torch.from_numpy(array(case["inputs"][name])).to(
        torch.float64 if double else torch.float32
    )


def given(case: Case, *names: str) -> list[torch.Tensor]:
    """The first of them with a gradient."""
    tensors = [tensor(case, name) for name in names]
    tensors[0].requires_grad_()
    return tensors


def gradient(loss: torch.Tensor, of: torch.Tensor) -> np.ndarray:
    loss.backward()
    assert of.grad is not None
    return of.grad.numpy()


def same_numbers(
    got: Mapping[str, torch.Tensor | None], rtol: float = CLOSE["rtol"]
) -> Callable[[Any], bool]:
    """Judges a dictionary of numbers, each of which must be among `got`."""

    def judge(want: Mapping[str, Any]) -> bool:
        pairs = [(float(got[name]), float(value)) for name, value in want.items()]
        return all(np.isclose(a, b, rtol=rtol, atol=rtol / 10, equal_nan=True) for a, b in pairs)

    return judge


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


def openrlhf_kl(case: Case) -> Outputs:
    tensors = [tensor(case, name) for name in ("log_probs", "log_probs_base")]
    return {"kl": ap.kl_penalty(*tensors, hyper(case, "kl_estimator"), like="openrlhf")}


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
    "verl_agg_loss": verl_agg_loss,
    "verl_kl_penalty": verl_kl_penalty,
    "verl_kl_controller": verl_kl_controller,
    "verl_rollout_is_weights": verl_rollout_is_weights,
    "verl_rollout_rejection": verl_rollout_rejection,
    "verl_value_loss": verl_value_loss,
    "trl_grpo_loss": trl_grpo_loss,
    "openrlhf_policy_loss": openrlhf_policy_loss,
    "openrlhf_kl": openrlhf_kl,
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

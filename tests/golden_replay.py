"""The one table from folders of reference cases to calls of the public API.

Each entry takes a case and returns the output fields that it computed; a value
may be a function that judges the expected field itself. Used by
`test_golden.py`.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from typing import Any

import numpy as np

import apportion as ap
from apportion import matching, primitives
from golden_replay_readouts import READOUTS
from golden_replay_rules import RULES_REPLAY
from golden_replay_tree import TREE_REPLAY

Case = dict[str, Any]
Outputs = dict[str, Any]

# Cases whose reference, in single precision, is further off the exact value than
# float32 outputs are compared at, with the relative tolerance that they need.
TOLERANCES = {
    # Variance as E[x^2] - E[x]^2, which cancels: 3.1e-5 off in one group.
    "verl_grpo_vectorized/case_04_ragged_uneven_groups": 5e-5,
}


def array(value: Any) -> np.ndarray:
    """Nested lists with `"nan"`, `"inf"` strings as float64."""
    return np.array(value, dtype=object).astype(np.float64)


def hyper(case: Case, name: str, default: Any = None) -> Any:
    value = case["meta"].get("hyperparameters", {}).get(name, default)
    return default if value is None else value


def verl_rollouts(case: Case, **columns: str) -> ap.Rollouts:
    """The batch that verl's functions take; `columns` maps our names to the case's."""
    inputs = case["inputs"]
    mask = array(inputs["response_mask"])
    names = {"token_rewards": "token_level_rewards", **columns}
    given = {ours: array(inputs[theirs]) for ours, theirs in names.items() if theirs in inputs}
    return ap.Rollouts.from_padded(mask, group_ids=inputs.get("index"), **given)


def padded(credit: ap.Credit) -> Outputs:
    """Advantages and returns; a method without returns of its own has its advantages'."""
    returns = "returns" if "returns" in credit.values else "advantages"
    return {"advantages": credit.to_padded(), "returns": credit.to_padded(returns)}


def verl(method: str, /, **fixed: Any) -> Callable[[Case], Outputs]:
    """A verl estimator; `fixed` options, those that are functions read the case."""

    def replay(case: Case) -> Outputs:
        options = {k: v(case) if callable(v) else v for k, v in fixed.items()}
        try:
            rollouts = verl_rollouts(case, reward_baselines="reward_baselines")
            return padded(ap.credit(method, rollouts, **options))
        except ap.InputError as error:
            # The reference raises; which rule it names must be the same.
            return {
                "error": lambda want, error=error: (
                    "at least 2" in want and "at least 2" in str(error)
                )
            }

    return replay


def std_or_none(case: Case) -> str:
    return "std" if hyper(case, "norm_adv_by_std_in_grpo", True) else "none"


def epsilon(case: Case) -> float:
    return float(hyper(case, "epsilon", 1e-6))


def trl(case: Case) -> Outputs:
    matrix = array(case["inputs"]["rewards_per_func"])
    rollouts = ap.Rollouts.from_padded(
        np.ones((len(matrix), 1)),
        group_size=hyper(case, "num_generations"),
        reward_matrix=matrix,
    )
    options = {"reward_weights": hyper(case, "reward_weights"), "eps": hyper(case, "eps")}
    if hyper(case, "multi_objective_aggregation") == "sum_then_normalize":
        scale = hyper(case, "scale_rewards")
        options["scale"] = "std" if scale == "group" else scale
        return {"advantages": ap.credit("grpo", rollouts, like="trl", **options).advantages}
    options["whiten_eps"] = options["eps"]
    return {"advantages": ap.credit("gdpo", rollouts, like="trl", **options).advantages}


def openrlhf_reward(case: Case) -> Outputs:
    inputs = {name: array(value) for name, value in case["inputs"].items()}
    shaped = primitives.shape_rewards(
        inputs["r"],
        inputs["action_mask"],
        kl=inputs["kl"],
        kl_coef=hyper(case, "kl_coef"),
        clip=hyper(case, "reward_clip_range"),
    )
    return {"reward": shaped}


def masked_whiten(case: Case) -> Outputs:
    rule = {
        "shift_mean": hyper(case, "shift_mean"),
        "eps": hyper(case, "eps"),
        "ddof": 1 if hyper(case, "unbiased") else 0,
    }
    inputs = case["inputs"]
    values, mask = array(inputs["values"]), array(inputs["mask"])
    return {"whitened": primitives.whiten(values, mask, remask=False, **rule)}


def gains(method: str, **names: str) -> Callable[[Case], Outputs]:
    """A2TGPO and IGPO on boundaries where the reward is not 0; `names` maps options."""

    def replay(case: Case) -> Outputs:
        options = {ours: hyper(case, theirs) for ours, theirs in names.items()}
        if method == "a2tgpo":
            options["scale"] = std_or_none(case)
        credit = ap.credit(method, verl_rollouts(case), boundary="nonzero", **options)
        return {name: credit.to_padded(name) for name in credit.values}

    return replay


def gae(case: Case) -> Outputs:
    rollouts = verl_rollouts(case, values="values")
    options = {"gamma": hyper(case, "gamma"), "lam": hyper(case, "lam")}
    got = padded(ap.credit("gae", rollouts, like="verl", **options))
    return {**got, "advantages_whitened": got["advantages"]}


def openrlhf_gae(case: Case) -> Outputs:
    """Cumulative returns are the same estimator without a critic."""
    inputs = {name: array(value) for name, value in case["inputs"].items()}
    rollouts = ap.Rollouts.from_padded(
        inputs["action_mask"],
        token_rewards=inputs["rewards"],
        values=inputs.get("values", np.zeros_like(inputs["rewards"])),
    )
    options = {"gamma": hyper(case, "gamma"), "lam": hyper(case, "lambd", 1.0), "whiten": False}
    return padded(ap.credit("gae", rollouts, like="openrlhf", **options))


def token_baseline(method: str) -> Callable[[Case], Outputs]:
    def replay(case: Case) -> Outputs:
        columns = ("old_log_probs", "sum_pi_squared")
        rollouts = verl_rollouts(case, **{name: name for name in columns})
        tail = hyper(case, "handle_zero_tail", False)
        return padded(ap.credit(method, rollouts, zero_tail=tail, eps=epsilon(case)))

    return replay


def same_partition(got: np.ndarray) -> Callable[[Any], bool]:
    """Judges labels that are arbitrary but for which items share one."""

    def judge(want: Any) -> bool:
        return np.array_equal(primitives.group(got.astype(int)), primitives.group(want))

    return judge


def gigpo(case: Case) -> Outputs:
    inputs = case["inputs"]
    if "pairs" in inputs:
        ratios = [matching.text_similarity(a, b, how="difflib") for a, b in inputs["pairs"]]
        return {"ratio": ratios}
    rollouts = ap.Rollouts.from_padded(
        array(inputs["response_mask"]),
        group_ids=inputs["uid"],
        trajectory_ids=inputs["traj_uid"],
        anchors=inputs["anchor_obs"],
        token_rewards=array(inputs["token_level_rewards"]),
        turn_rewards=array(inputs["step_rewards_raw"]),
    )
    options = {
        "gamma": hyper(case, "gamma"),
        "step_weight": hyper(case, "step_advantage_w"),
        "eps": epsilon(case),
        "scale": "std" if hyper(case, "mode") == "mean_std_norm" else "none",
        "stats_over": "rows" if hyper(case, "compute_mean_std_cross_steps") else "trajectories",
    }
    if hyper(case, "enable_similarity"):
        options["similarity"] = "difflib"
        options["similarity_threshold"] = hyper(case, "similarity_thresh")
    credit = ap.credit("gigpo", rollouts, **options)
    return {
        "advantages": credit.to_padded(),
        "step_returns": credit.extras["step_returns"][1],
        "step_group_id": same_partition(credit.extras["step_group_id"][1]),
        "episode_advantage_row": credit.to_padded("episode_advantage"),
        "step_advantage": credit.to_padded("step_advantage"),
    }


def step_spans(ends: np.ndarray, mask: np.ndarray) -> list[list[tuple[int, int]]]:
    """Steps as spans: each from the end of the one before to its own end."""
    spans = []
    for row in ends.astype(bool):
        last = np.flatnonzero(row) + 1
        spans.append(list(zip([0, *last[:-1]], last, strict=True)) if len(last) else [])
    return spans


def pure_transform(case: Case) -> Outputs:
    mask = array(case["inputs"]["step_mask"])
    logits = array(case["inputs"]["logits"])
    scores = np.tanh((logits[..., 1] - logits[..., 0]) / 2)
    rollouts = ap.Rollouts.from_padded(
        mask,
        group_ids=np.arange(len(mask)),
        turn_spans=step_spans(mask, mask),
        turn_rewards=[row[m] for row, m in zip(scores, mask.astype(bool), strict=True)],
    )
    uniform = hyper(case, "disable_weighted_reward")
    options = {
        "transform": "uniform" if uniform else "softmax",
        "temperature": hyper(case, "temperature"),
    }
    credit = ap.credit("pure", rollouts, **options)
    return {
        "transformed_process_reward": credit.to_padded("step_rewards"),
        "outcome_reward": credit.extras["process_rewards"][1],
    }


def pure_verl(case: Case) -> Outputs:
    inputs = case["inputs"]
    mask = array(inputs["eos_mask"])
    rollouts = ap.Rollouts.from_padded(
        mask,
        group_ids=inputs["index"],
        turn_spans=step_spans(array(inputs["step_end_mask"]), mask),
        token_rewards=array(inputs["token_level_rewards"]),
    )
    options = {
        "transform": "none",  # the case's rewards are transformed already
        "form": hyper(case, "return_aggregate_method"),
        "whiten": hyper(case, "adv_norm", False),
    }
    return padded(ap.credit("pure", rollouts, like="verl", **options))


def pure_openrlhf(case: Case) -> Outputs:
    inputs, outputs = case["inputs"], {}
    verified = hyper(case, "reward_mode") == "PRMVR"
    options = {
        "transform": "none",
        "baseline": hyper(case, "reward_baseline"),
        "outcome_coef": hyper(case, "verifiable_reward_coef") if verified else 0.0,
    }
    for g in range(sum(name.endswith("_solved") for name in inputs)):
        own = {k: array(inputs[f"g{g}_{k}"]) for k in ("process_reward", "action_mask", "solved")}
        ends = array(inputs[f"g{g}_process_reward_mask"])
        rollouts = ap.Rollouts.from_padded(
            own["action_mask"],
            group_size=len(ends),
            turn_spans=step_spans(ends, own["action_mask"]),
            token_rewards=own["process_reward"],
            outcome_rewards=own["solved"],
        )
        credit = ap.credit("pure", rollouts, like="openrlhf", **options)
        got = padded(credit)
        outputs[f"baselined_rewards_g{g}"] = credit.to_padded("shaped_rewards")
        outputs[f"returns_g{g}"] = got["returns"]
        outputs[f"advantages_separator_masked_g{g}"] = got["advantages"]
        outputs[f"match_g{g}"] = credit.extras["agrees"][1]
    return outputs


def grpo_process(case: Case) -> Outputs:
    rewards, lengths = case["inputs"]["step_rewards"], case["inputs"]["step_token_lengths"]
    ends = [np.cumsum([0, *row]) for row in lengths]
    rollouts = ap.Rollouts.from_ragged(
        np.cumsum([0, *(row[-1] for row in ends)]),
        group_ids=[0] * len(rewards),
        turn_spans=[list(itertools.pairwise(row)) for row in ends],
        turn_rewards=rewards,
    )
    credit = ap.credit("grpo_process", rollouts, eps=hyper(case, "eps"))
    return {"advantages": credit.advantages}


A3_OPTIONS = {
    "eps": "epsilon",
    "bound": "adv_bound",
    "tau": "trie_min_count",
    "residual_weight": "w_trie",
    "tree_weight": "w_action_cluster",
    "support_prior": "support_prior",
    "gamma": "decision_gamma",
    "match_tolerance": "A3_algo_tree_intent_match_tau",
    "time_decay": "A3_algo_tree_bucket_time_decay",
    "scopes": "intent_scopes",
    "scope_weights": "w_intent_scopes",
}


def a3(case: Case) -> Outputs:
    inputs = case["inputs"]
    if "distance" in inputs:
        return {"labels": matching.single_linkage(array(inputs["distance"]), hyper(case, "k"))}
    rollouts = ap.Rollouts.from_padded(
        array(inputs["response_mask"]),
        group_ids=inputs["prompt"],
        trajectory_ids=inputs["traj"],
        turn_index=inputs["turn"],
        outcome_rewards=array(inputs["episode_score"]),
        signatures=inputs["signature"],
    )
    options = {ours: hyper(case, theirs) for ours, theirs in A3_OPTIONS.items()}
    credit = ap.credit("a3", rollouts, **options)
    parts: Outputs = {name: values for name, (_, values) in credit.extras.items()}
    for name in ("state_group", "action_group"):
        parts[name] = same_partition(parts[name])
    return {**parts, "scalar_advantage": credit.turn_advantages}


def matchtir(case: Case) -> Outputs:
    inputs = case["inputs"]
    if "response_mask" in inputs:
        options = {"lam": hyper(case, "lam"), "scale": std_or_none(case), "eps": epsilon(case)}
        return {"advantages": ap.credit("matchtir", verl_rollouts(case), **options).to_padded()}
    if "preds" in inputs:
        return tool_rewards(case)
    if "pairs" in inputs:
        return {"f1": answer_rewards(inputs["pairs"])}
    scores = array(inputs["similarity"])
    return {
        "assignment": matching.match(scores, how="greedy"),
        "optimal_assignment_scipy": matching.match(scores, how="optimal"),
    }


def one_token_turns(**turn_columns: list[list[str]]) -> ap.Rollouts:
    """Trajectories whose turns are single tokens with a masked one after each."""
    counts = [len(turns) for turns in next(iter(turn_columns.values()))]
    gold = {name: turn_columns.pop(name) for name in list(turn_columns) if "gold" in name}
    width = 2 * max(counts)
    mask = np.array([[t % 2 == 0 and t < 2 * n for t in range(width)] for n in counts])
    flat = {name: [row[0] for row in rows] for name, rows in gold.items()}
    mask = mask.reshape(len(counts), width)
    return ap.Rollouts.from_padded(mask, group_ids=[0] * len(counts), **turn_columns, **flat)


def answer_rewards(pairs: list[list[str]]) -> np.ndarray:
    """One trajectory a pair, with one turn that answers."""
    rollouts = one_token_turns(
        texts=[[answer] for answer, _ in pairs],
        tool_calls=[[""] for _ in pairs],
        gold_answers=[[gold] for _, gold in pairs],
        gold_calls=[["[]"] for _ in pairs],
    )
    return ap.credit("matchtir", rollouts).extras["turn_rewards"][1]


def tool_rewards(case: Case) -> Outputs:
    """One trajectory with one call a turn: its turn rewards are the calls' rewards."""
    calls, gold = case["inputs"]["preds"], case["inputs"]["gts"]
    rollouts = one_token_turns(
        tool_calls=[[json.dumps([call]) for call in calls]], gold_calls=[[json.dumps(gold)]]
    )

    def rewards(**options: Any) -> np.ndarray:
        return ap.credit("matchtir", rollouts, **options).extras["turn_rewards"][1]

    scores = matching.tool_similarity(calls, gold)
    assigned = matching.match(scores, how="greedy").astype(float)
    assigned[assigned < 0] = np.nan
    return {
        "similarity": scores,
        "assignment": assigned,
        "rewards_train": rewards(assign="greedy", unmatched=0.0),
        "rewards_default_penalty": rewards(assign="greedy", unmatched=-0.5),
        "rewards": rewards(assign="sinkhorn", reg=hyper(case, "reg", 0.1)),
    }


REPLAY: dict[str, Callable[[Case], Outputs]] = {
    "grpo": verl("grpo", scale=std_or_none, eps=epsilon),
    "verl_grpo": verl("grpo", scale=std_or_none, eps=epsilon),
    "verl_dr_grpo_adv": verl("grpo", scale=std_or_none, eps=epsilon),
    "verl_grpo_vectorized": verl("grpo", scale=std_or_none, eps=epsilon, var_floor=epsilon),
    "verl_grpo_passk": verl("grpo_passk", scale=std_or_none),
    "verl_rloo": verl("rloo"),
    "verl_rloo_vectorized": verl("rloo", singleton="zero"),
    "verl_opo": verl("opo"),
    "verl_gpg": verl("gpg"),
    "verl_remax": verl("remax", remask=False),
    "verl_reinforce_pp_baseline": verl("reinforce_pp_baseline"),
    "verl_masked_whiten": masked_whiten,
    "gae": gae,
    "verl_gae": gae,
    "openrlhf_gae": openrlhf_gae,
    "verl_reinforce_pp": verl(
        "reinforce_pp",
        gamma=lambda case: hyper(case, "gamma"),
        at_mask="reset",
        remask=False,
    ),
    "verl_otb": token_baseline("otb"),
    "verl_otb_multi_turn": token_baseline("tir_otb"),
    "pure_transform": pure_transform,
    "pure_verl_rloo": pure_verl,
    "pure_openrlhf_baseline": pure_openrlhf,
    "grpo_process_supervision_formula": grpo_process,
    "gigpo": gigpo,
    "a3": a3,
    "matchtir": matchtir,
    "trl_grpo_advantage": trl,
    "openrlhf_reward": openrlhf_reward,
    "a2tgpo": gains(
        "a2tgpo",
        mode="info_gain_norm_mode",
        gamma="gamma",
        alpha="adv_rescale_alpha",
        eps="epsilon",
    ),
    "igpo": gains(
        "igpo",
        mode="info_gain_norm_mode",
        gamma="gamma",
        outcome_weight="curriculum_f1_weight",
        gain_weight="curriculum_ig_weight",
        eps="epsilon",
    ),
    **RULES_REPLAY,
    **TREE_REPLAY,
    **READOUTS,
}

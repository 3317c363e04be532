"""`CreditMixin`: any method's per-token credit in a GRPOTrainer. Needs trl and torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from apportion.credit import Credit
from apportion.credit import credit as run_credit
from apportion.errors import InputError, MissingColumnError
from apportion.integrations.trl.seam import gather_object, trl

# isort: split
# seam comes first: it says what to install where trl is missing.
import torch

from apportion.integrations.trl.columns import (
    Function,
    at_last_token,
    count_turns,
    find,
    fit_turns,
    pad,
    row_means,
    wanted,
)
from apportion.integrations.trl.loss import check_loss, compute_loss
from apportion.integrations.trl.settings import check_aggregation, preset_of
from apportion.methods import methods
from apportion.rollouts import Rollouts

SCALES = {"group": "std", "batch": "batch", "none": "none"}
"""TRL's `scale_rewards` in the words of `grpo`'s option `scale`."""


class CreditMixin:
    """Replaces the advantages of a GRPOTrainer subclass by a method's per-token credit.

    Put it first: `class MyTrainer(CreditMixin, MyGRPOTrainer)`.

    # Arguments, beside those of the trainer

    - `credit`: a method's name, see `apportion.methods()`, or a function
      `f(rollouts, **options)`. Default `"grpo"`, which is what TRL does.
    - `credit_options`: the method's options by name.
    - `loss`: `"trl"`, TRL's own loss, or `"apportion"`: `apportion.policy_loss` at the same
      settings, which is the same loss for each of TRL's `loss_type`s.
    - `loss_options`: with `loss="apportion"`, options of `policy_loss` in place of TRL's
      settings, such as `{"ratio": "turn"}`, whose turns are runs of the model's tokens.
    - `like`: a preset of the method. By default `"trl"` where the method has one, else the
      method's own defaults. With `grpo` and `"trl"` the trainer's `scale_rewards` is kept;
      every other combination leaves `scale_rewards` unread.

    # Where columns come from

    A group is `num_generations` consecutive rows. `outcome_rewards` is TRL's weighted sum
    over the reward functions; a method with an option `reward_weights` gets the matrix of
    the functions' rewards instead, and one that needs `token_rewards` gets the sum on the
    last trained token, unless they are given. A reward that is None is absent. A turn is a run of
    tokens that the model wrote, as TRL's `tool_mask` (or the `env_mask` of a `rollout_func`)
    says; without one a completion is one turn. Any further column that the method reads,
    `turn_rewards` and `anchors` above all, and `turn_spans` where runs are not turns, is
    looked for under its name in

    1. what a reward function logged: `log_extra("turn_rewards", [[0.0, 1.0], ...])`, for
       each completion a list with one value a turn;
    2. what `rollout_func` returned beside tokens, or a column of the dataset;
    3. attributes of the environments (`environment_factory`).

    With environments, TRL's tool loop may end on a message that calls no tool, or in a state
    in which nothing is done any more. One turn reward too few is therefore read as 0, and
    one value too many in any other turn column is dropped.

    Token columns are lists as long as the completion. A completion that
    `mask_truncated_completions` took out has no turns, and its turn values are dropped.

    # Several processes

    Rewards, masks and columns are gathered, as TRL gathers rewards; every process computes
    the credit of the whole batch and keeps its rows. Nothing is restricted.

    # Logged

    `credit/groups`, `credit/singleton_share`, `credit/zero_variance_share` and
    `credit/absent_rewards`, and for each grouping of turns by state its share of turns seen
    once (`credit/step_singleton_share` with `gigpo`). In the table of completions
    `advantage` is the mean over a completion's trained tokens. With `loss="apportion"` TRL's
    `entropy`, `kl` and `policy_loss`, and the metrics of `policy_loss` as `loss/<name>`.
    """

    # What is read of the trainer.
    accelerator: Any
    environments: Any
    epsilon_high: Any
    epsilon_low: Any
    model: Any
    num_generations: int
    num_generations_eval: int
    reward_weights: Any
    scale_rewards: str
    _logs: Any
    _metrics: Any

    def __init__(
        self,
        *args: Any,
        credit: str | Function = "grpo",
        credit_options: Mapping[str, Any] | None = None,
        like: str | None = None,
        loss: str = "trl",
        loss_options: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Check the method and its options, then build the trainer.

        Raises:
            OptionError: unknown method, preset or option, or settings of the trainer that
                contradict the method or the loss.
        """
        self.credit_method = credit
        self.credit_options = dict(credit_options or {})
        self.credit_like = preset_of(credit, like, self.credit_options)
        self.loss_name, self.loss_options = loss, dict(loss_options or {})
        super().__init__(*args, **kwargs)
        check_aggregation(self)
        check_loss(self)

    def _calculate_rewards(
        self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any
    ) -> Any:
        rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)  # type: ignore[misc]
        # Read here: TRL empties what reward functions logged before it returns the batch.
        self._credit_columns = {
            name: values
            for name in [*wanted(self.credit_method), "turn_spans"]
            if (values := find(self, name, inputs)) is not None
        }
        self._credit_rewards = rewards
        return rewards

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        out = super()._generate_and_score_completions(inputs)  # type: ignore[misc]
        mask = out["completion_mask"] * out.get("tool_mask", 1)
        everyone = self._gather_tokens(mask)
        credit = self._run_credit(everyone, self._gather_columns(out, mask))
        rows, width = mask.shape
        first = self.accelerator.process_index * rows
        for name, key in (("advantages", "advantages"), ("clip_scale", "credit_clip_scale")):
            if name in credit.values:
                padded = credit.to_padded(name, dtype=np.float32)
                out[key] = padded[first : first + rows, :width]
        if "loss_mask" in credit.values:
            raise InputError(
                f"credit: {credit.method} returned a loss_mask, which TRL's loss cannot take"
            )
        self._log_credit(credit)
        return out

    def _compute_loss(self, model: Any, inputs: Any) -> Any:
        """Our loss; or TRL's, its clipping bounds scaled by token where the method says so."""
        if self.loss_name == "apportion":
            return compute_loss(self, model, inputs)
        scale = inputs.get("credit_clip_scale")
        if scale is None:
            return super()._compute_loss(model, inputs)  # type: ignore[misc]
        bounds = self.epsilon_low, self.epsilon_high
        self.epsilon_low, self.epsilon_high = (bound * scale for bound in bounds)
        try:
            return super()._compute_loss(model, inputs)  # type: ignore[misc]
        finally:
            self.epsilon_low, self.epsilon_high = bounds

    def _gather_tokens(self, values: Any) -> Any:
        """A `(B, T)` tensor of every process, padded with 0 to the widest."""
        return self.accelerator.gather(self.accelerator.pad_across_processes(values, dim=1))

    def _gather_columns(self, out: Mapping[str, Any], mask: Any) -> dict[str, Any]:
        """The columns found, of every process. All processes walk the names in one order."""
        found = dict(self._credit_columns)
        known = wanted(self.credit_method)
        if "old_log_probs" in known and "old_per_token_logps" in out:
            found.setdefault("old_log_probs", out["old_per_token_logps"].tolist())
        gathered = {}
        for name in sorted(set(gather_object(sorted(found)))):
            own = found.get(name, [None] * len(mask))
            level = known[name].level if name in known else "turn"
            if level == "token":
                gathered[name] = self._gather_tokens(pad(name, own, mask))
            else:
                gathered[name] = gather_object(own)
        return gathered

    def _run_credit(self, mask: Any, found: dict[str, Any]) -> Credit:
        mode = "train" if self.model.training else "eval"
        size = self.num_generations if mode == "train" else self.num_generations_eval
        options, rewards = self._credit_settings(mask)
        known = wanted(self.credit_method)
        counts = count_turns(mask)
        if "turn_spans" in found:
            found["turn_spans"] = fit_turns("turn_spans", found["turn_spans"], counts, False)
            counts = [len(spans) for spans in found["turn_spans"]]
        for name, values in found.items():
            if name in known and known[name].level == "turn":
                ends_open = self.environments is not None
                found[name] = fit_turns(name, values, counts, ends_open)
        try:
            rollouts = Rollouts.from_padded(mask, group_size=size, **{**rewards, **found})
            return run_credit(self.credit_method, rollouts, like=self.credit_like, **options)
        except MissingColumnError as error:
            raise MissingColumnError(
                f"{error}. In TRL a column comes from a reward function (log_extra(name, "
                "values)), from rollout_func, or from an attribute of the environment"
            ) from error

    def _credit_settings(self, mask: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Options of the method, and the rewards in the form in which it takes them."""
        options = dict(self.credit_options)
        matrix = self._credit_rewards
        weights = self.reward_weights.to(matrix.device)
        card = None if callable(self.credit_method) else methods()[self.credit_method]
        if card and self.credit_method == "grpo" and self.credit_like == "trl":
            options.setdefault("scale", SCALES[self.scale_rewards])
        if card and any(option.name == "reward_weights" for option in card.options):
            options.setdefault("reward_weights", weights.tolist())
            return options, {"reward_matrix": matrix}
        total = (matrix * weights).nansum(dim=1)
        total[matrix.isnan().all(dim=1)] = torch.nan
        column = wanted(self.credit_method).get("token_rewards")
        if card and column and column.required:
            return options, {"token_rewards": at_last_token(total, mask)}
        return options, {"outcome_rewards": total}

    def _log_credit(self, credit: Credit) -> None:
        metrics = self._metrics["train" if self.model.training else "eval"]
        groups = credit.counts.get("groups", 0)
        if groups:
            metrics["credit/groups"].append(groups)
            metrics["credit/singleton_share"].append(credit.counts["singletons"] / groups)
            metrics["credit/zero_variance_share"].append(credit.counts["zero_spread"] / groups)
            metrics["credit/absent_rewards"].append(credit.counts["absent"])
        for name, (_, ids) in credit.extras.items():
            if name.endswith("_group_id") and len(ids):
                sizes = np.unique(ids, return_counts=True)[1]
                share = float((sizes == 1).sum() / len(ids))
                metrics[f"credit/{name.removesuffix('_group_id')}_singleton_share"].append(share)
        log = self._logs["advantages"]
        means = row_means(credit)
        for _ in range(min(len(log), len(means))):
            log.pop()  # what TRL computed for this batch
        log.extend(means)


class GRPOTrainer(CreditMixin, trl.GRPOTrainer):  # type: ignore[misc]
    """TRL's GRPOTrainer with `credit`, `loss` and their options; see `CreditMixin`."""

"""Any method's per-token credit in TRL's GRPOTrainer. Needs trl and torch.

    from apportion.integrations.trl import GRPOTrainer

    trainer = GRPOTrainer(model, reward_funcs, ..., credit="gigpo", credit_options={"gamma": 0.95})

With no `credit` it trains as TRL's own trainer does. `CreditMixin` adds the same
to a GRPOTrainer subclass of yours.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from apportion.credit import Credit
from apportion.credit import credit as run_credit
from apportion.errors import ExtraMissingError, InputError, MissingColumnError, OptionError
from apportion.methods import Column, columns, methods
from apportion.rollouts import Rollouts

INSTALL = "pip install 'apportion[trl]'"

try:
    import torch
    import trl
    from accelerate.utils import gather_object
except ImportError as error:
    raise ExtraMissingError(f"apportion.integrations.trl needs trl: {INSTALL}") from error

SEAM = {
    "_calculate_rewards": ["self", "inputs", "prompts", "completions", "completion_ids_list"],
    "_generate_and_score_completions": ["self", "inputs"],
    "_compute_loss": ["self", "model", "inputs"],
}
"""Methods of TRL's trainer that the mixin extends, with their parameters in TRL 1.16."""

FROM_TRAINER = {"group_ids", "outcome_rewards", "reward_matrix"}
SCALES = {"group": "std", "batch": "batch", "none": "none"}
"""TRL's `scale_rewards` in the words of `grpo`'s option `scale`."""

Function = Callable[..., Any]


def check_seam(trainer: type) -> None:
    """Refuse a TRL whose trainer has not the methods that `CreditMixin` extends."""
    for name, expected in SEAM.items():
        method = getattr(trainer, name, None)
        got = None if method is None else list(inspect.signature(method).parameters)
        if got != expected:
            raise ExtraMissingError(
                f"trl {trl.__version__}: the parameters of {trainer.__name__}.{name} are {got}, "
                f"expected {expected} as in trl 1.16; install one that fits: {INSTALL}"
            )


class CreditMixin:
    """Replaces the advantages of a GRPOTrainer subclass by a method's per-token credit.

    Put it first: `class MyTrainer(CreditMixin, MyGRPOTrainer)`.

    # Arguments, beside those of the trainer

    - `credit`: a method's name, see `apportion.methods()`, or a function
      `f(rollouts, **options)`. Default `"grpo"`, which is what TRL does.
    - `credit_options`: the method's options by name.
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
    `advantage` is the mean over a completion's trained tokens.
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
        **kwargs: Any,
    ) -> None:
        """Check the method and its options, then build the trainer.

        Raises:
            OptionError: unknown method, preset or option, or settings of the trainer that
                contradict the method.
        """
        self.credit_method = credit
        self.credit_options = dict(credit_options or {})
        self.credit_like = _preset(credit, like, self.credit_options)
        super().__init__(*args, **kwargs)
        _check_aggregation(self)

    def _calculate_rewards(
        self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any
    ) -> Any:
        rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)  # type: ignore[misc]
        # Read here: TRL empties what reward functions logged before it returns the batch.
        self._credit_columns = {
            name: values
            for name in [*_wanted(self.credit_method), "turn_spans"]
            if (values := _find(self, name, inputs)) is not None
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
        """TRL's loss, its clipping bounds scaled by token where the method says so."""
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
        wanted = _wanted(self.credit_method)
        if "old_log_probs" in wanted and "old_per_token_logps" in out:
            found.setdefault("old_log_probs", out["old_per_token_logps"].tolist())
        gathered = {}
        for name in sorted(set(gather_object(sorted(found)))):
            own = found.get(name, [None] * len(mask))
            level = wanted[name].level if name in wanted else "turn"
            if level == "token":
                gathered[name] = self._gather_tokens(_pad(name, own, mask))
            else:
                gathered[name] = gather_object(own)
        return gathered

    def _run_credit(self, mask: Any, found: dict[str, Any]) -> Credit:
        mode = "train" if self.model.training else "eval"
        size = self.num_generations if mode == "train" else self.num_generations_eval
        options, rewards = self._credit_settings(mask)
        wanted = _wanted(self.credit_method)
        counts = _count_turns(mask)
        if "turn_spans" in found:
            found["turn_spans"] = _fit_turns("turn_spans", found["turn_spans"], counts, False)
            counts = [len(spans) for spans in found["turn_spans"]]
        for name, values in found.items():
            if name in wanted and wanted[name].level == "turn":
                ends_open = self.environments is not None
                found[name] = _fit_turns(name, values, counts, ends_open)
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
        column = _wanted(self.credit_method).get("token_rewards")
        if card and column and column.required:
            return options, {"token_rewards": _at_last_token(total, mask)}
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
        means = _row_means(credit)
        for _ in range(min(len(log), len(means))):
            log.pop()  # what TRL computed for this batch
        log.extend(means)


class GRPOTrainer(CreditMixin, trl.GRPOTrainer):  # type: ignore[misc]
    """TRL's GRPOTrainer with `credit`, `credit_options` and `like`; see `CreditMixin`."""


check_seam(trl.GRPOTrainer)


def _preset(credit: str | Function, like: str | None, options: Mapping[str, Any]) -> str | None:
    """The preset to run with, once method, preset and option names are known to exist."""
    if callable(credit):
        if like is not None:
            raise OptionError(f"like: got {like!r}, but a function of yours has no presets")
        return None
    if credit not in methods():
        raise OptionError(f"credit: got {credit!r}, expected one of {', '.join(methods())}")
    card = methods()[credit]
    known = {option.name for option in card.options}
    for name in options:
        if name not in known:
            raise OptionError(
                f"credit_options: got {name!r}, expected options of {credit}: "
                f"{', '.join(sorted(known))}"
            )
    if like is None:
        return "trl" if "trl" in card.presets else None
    if like not in card.presets:
        raise OptionError(
            f"like: got {like!r}, expected a preset of {credit}: "
            f"{', '.join(card.presets) or 'it has none'}"
        )
    return like


def _check_aggregation(trainer: Any) -> None:
    if (
        trainer.multi_objective_aggregation == "normalize_then_sum"
        and trainer.credit_method == "grpo"
        and trainer.credit_like == "trl"
    ):
        raise OptionError(
            "multi_objective_aggregation: got 'normalize_then_sum', which grpo does not do; "
            "expected 'sum_then_normalize', or credit='gdpo', which does"
        )


def _wanted(credit: str | Function) -> dict[str, Column]:
    """Columns that the method may read and that are not the trainer's own."""
    known = columns() if callable(credit) else {c.name: c for c in methods()[credit].columns}
    return {name: column for name, column in known.items() if name not in FROM_TRAINER}


def _find(trainer: Any, name: str, inputs: Sequence[Mapping[str, Any]]) -> list[Any] | None:
    """A column's value for each completion of this process, or None if nobody has it."""
    logged = trainer._pending_extra_logs.get(name)
    if logged is not None:
        if len(logged) != len(inputs):
            raise InputError(
                f"{name}: log_extra got {len(logged)} values, expected {len(inputs)}, one a "
                "completion, from one reward function"
            )
        return list(logged)
    if any(name in row for row in inputs):
        return [row.get(name) for row in inputs]
    environments = trainer.environments or []
    if any(hasattr(environment, name) for environment in environments):
        # Copied: environments are reused, and their lists are emptied by the next reset.
        values = [getattr(environment, name, None) for environment in environments]
        return [None if value is None else list(value) for value in values]
    return None


def _count_turns(mask: Any) -> list[int]:
    """Runs of 1 in each row."""
    trained = mask.bool()
    starts = trained.clone()
    starts[:, 1:] &= ~trained[:, :-1]
    return [int(count) for count in starts.sum(dim=1)]


def _fit_turns(
    name: str, values: Sequence[Any], counts: Sequence[int], ends_open: bool
) -> list[Any]:
    """Turn values of the rows that have turns; `ends_open`: as a tool loop may end."""
    fitted = []
    for index, (row, count) in enumerate(zip(values, counts, strict=True)):
        if row is None or isinstance(row, str) or not hasattr(row, "__len__"):
            raise InputError(f"{name}[{index}]: got {row!r}, expected a list with one value a turn")
        own = list(row)
        if count == 0:
            own = []
        elif ends_open and name == "turn_rewards" and len(own) == count - 1:
            own.append(0.0)
        elif ends_open and name != "turn_rewards" and len(own) == count + 1:
            own.pop()
        fitted.append(own)
    return fitted


def _pad(name: str, rows: Sequence[Any], mask: Any) -> Any:
    """Lists of token values as a tensor in the mask's shape, 0 after their end."""
    padded = torch.zeros(mask.shape, dtype=torch.float32)
    for index, row in enumerate(rows):
        if row is None or len(row) > mask.shape[1]:
            got = None if row is None else len(row)
            raise InputError(
                f"{name}[{index}]: got {got} values, expected one a token of the completion"
            )
        padded[index, : len(row)] = torch.as_tensor(row, dtype=torch.float32)
    return padded.to(mask.device)


def _at_last_token(rewards: Any, mask: Any) -> Any:
    """`(N, T)` with each row's reward on its last token in the mask, 0 elsewhere."""
    last = (mask.bool().long() * torch.arange(1, mask.shape[1] + 1, device=mask.device)).argmax(1)
    spread = torch.zeros(mask.shape, dtype=rewards.dtype, device=mask.device)
    spread[torch.arange(len(mask), device=mask.device), last] = rewards
    return spread


def _row_means(credit: Credit) -> list[float]:
    """Mean credit over the trained tokens of each row."""
    sums = credit.to_padded(dtype=np.float64).sum(dim=1).cpu().numpy()
    means: list[float] = (sums / np.maximum(credit.rollouts.lengths, 1)).tolist()
    return means

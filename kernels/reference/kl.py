"""Estimates of the divergence from a reference policy, token by token. Torch alone.

Schulman, "Approximating KL divergence" (2020), with `a = log pi - log pi_ref`.
"""

from __future__ import annotations

from dataclasses import dataclass

from apportion.kernels.reference.bounds import Tensor, bound, straight_through

KINDS = {
    "k1": "a",
    "abs": "|a|",
    "k2": "a^2 / 2",
    "k3": "exp(-a) + a - 1",
}
"""Estimators. A `+` behind the name keeps its value and takes the gradient of `k2`,
which is unbiased where that of `k1` and `k3` is not."""

ALIASES = {"kl": "k1", "mse": "k2", "low_var_kl": "k3"}
"""verl's names."""


@dataclass(frozen=True)
class Penalty:
    """An estimator and its clamps; the gradient is zero where a clamp is active.

    Attributes:
        kind: a key of `KINDS` or `ALIASES`, with or without `+`.
        input_bound: `-a` of `k3` is kept within plus and minus this.
        output_bound: the value is kept within plus and minus this.
        bound_all: whether `output_bound` holds for every estimator or `k3` alone.
    """

    kind: str = "k3"
    input_bound: float | None = 20.0
    output_bound: float | None = 10.0
    bound_all: bool = False

    @property
    def name(self) -> str:
        """The estimator: a key of `KINDS`."""
        bare = self.kind.removesuffix("+")
        return ALIASES.get(bare, bare)

    @property
    def is_straight_through(self) -> bool:
        """Whether the gradient is that of `k2`."""
        return self.kind.endswith("+")

    @property
    def limit(self) -> float | None:
        """The bound of the value, where this estimator has one."""
        return self.output_bound if self.bound_all or self.name == "k3" else None

    def __call__(self, log_probs: Tensor, ref_log_probs: Tensor) -> Tensor:
        """The penalty of each token, in the shape given."""
        difference = log_probs - ref_log_probs
        value = _within(self._value(difference), self.limit)
        if not self.is_straight_through:
            return value
        return straight_through(value, 0.5 * difference.square())

    def _value(self, difference: Tensor) -> Tensor:
        if self.name == "k1":
            return difference
        if self.name == "abs":
            return difference.abs()
        if self.name == "k2":
            return 0.5 * difference.square()
        negated = _within(-difference, self.input_bound)
        return negated.exp() - negated - 1


PRESETS = {
    "verl": Penalty(),
    "skyrl": Penalty(),
    "trl": Penalty(input_bound=None, output_bound=None),
    "openrlhf": Penalty(input_bound=None, bound_all=True),
}
"""The clamps of the trainers: TRL has none, OpenRLHF those of the value, for all kinds."""


def is_kind(name: str) -> bool:
    """Whether `name` is an estimator."""
    bare = name.removesuffix("+")
    return bare in KINDS or bare in ALIASES


def _within(values: Tensor, limit: float | None) -> Tensor:
    return values if limit is None else bound(values, -limit, limit)

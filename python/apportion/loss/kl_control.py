"""The coefficient of a KL penalty, adapted to a target. Depends on nothing."""

from __future__ import annotations

from dataclasses import dataclass

from apportion.errors import OptionError


@dataclass
class AdaptiveKLController:
    """Raises the coefficient while the divergence is above its target, and lowers it below.

    `update(kl, steps)`: `coef *= 1 + clip(kl / target - 1, -0.2, 0.2) * steps / horizon`
    (Ziegler et al., arXiv 1909.08593, section 2.2). A fixed coefficient needs no class.
    """

    coef: float
    target: float
    horizon: float

    def __post_init__(self) -> None:
        """Refuse a target or horizon that is not above 0."""
        for name in ("target", "horizon"):
            if not getattr(self, name) > 0:
                raise OptionError(f"{name}: got {getattr(self, name)!r}, expected above 0")

    def update(self, kl: float, steps: int) -> float:
        """The coefficient after `steps` samples whose mean divergence was `kl`."""
        error = min(max(kl / self.target - 1, -0.2), 0.2)
        self.coef *= 1 + error * steps / self.horizon
        return self.coef

"""The coefficient of a KL penalty, adapted to a target. Depends on nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real

from apportion.errors import InputError, OptionError


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
        """Refuse a target or horizon that is not above 0, and a coefficient below."""
        for name in ("coef", "target", "horizon"):
            got = getattr(self, name)
            number = isinstance(got, Real) and math.isfinite(got)
            if not number or got < 0 or (got == 0 and name != "coef"):
                expected = "a number at least 0" if name == "coef" else "a number above 0"
                raise OptionError(f"{name}: got {got!r}, expected {expected}")

    def update(self, kl: float, steps: int) -> float:
        """The coefficient after `steps` samples whose mean divergence was `kl`.

        A divergence that is no number is an error, and leaves the coefficient as it is.
        """
        if not math.isfinite(kl):
            raise InputError(f"kl: got {float(kl)}, expected a finite number")
        error = min(max(float(kl) / self.target - 1, -0.2), 0.2)
        self.coef *= 1 + error * steps / self.horizon
        return self.coef

"""Any method's per-token credit, and our policy loss, in TRL's GRPOTrainer. Needs trl and torch.

    from apportion.integrations.trl import GRPOTrainer

    trainer = GRPOTrainer(model, reward_funcs, ..., credit="gigpo", credit_options={"gamma": 0.95})

With no `credit` it trains as TRL's own trainer does. `CreditMixin` adds the same
to a GRPOTrainer subclass of yours.
"""

from apportion.integrations.trl.seam import check_seam, trl

# isort: split
# seam comes first: it says what to install where trl is missing.
from apportion.integrations.trl.mixin import CreditMixin, GRPOTrainer

__all__ = ["CreditMixin", "GRPOTrainer", "check_seam"]

check_seam(trl.GRPOTrainer)

"""Models of transformers: log-probabilities without logits, and evaluators of a search.

Imports torch and transformers, and is imported by nothing.
"""

from apportion.integrations.transformers.evaluator import TransformersEvaluator
from apportion.integrations.transformers.log_probs import LogProbsOutput, patch_log_probs

__all__ = ["LogProbsOutput", "TransformersEvaluator", "patch_log_probs"]

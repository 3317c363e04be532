"""Hugging Face transformers: models that answer what a search asks.

Imports torch and transformers, and is imported by nothing.
"""

from apportion.integrations.transformers.evaluator import TransformersEvaluator

__all__ = ["TransformersEvaluator"]

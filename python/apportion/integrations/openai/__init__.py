"""Models behind an OpenAI-compatible server, as evaluators of a search. Needs httpx."""

from apportion.integrations.openai.evaluator import OpenAIEvaluator

__all__ = ["OpenAIEvaluator"]

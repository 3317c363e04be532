"""Language models as evaluators of a search.

`StepEvaluator` stands between a `Search`, which knows nodes by number, and a model,
which knows text: leaves become requests, answers become values, priors and children.
A model is anything with `answer(requests)`, plain or async; those of
`apportion.integrations.transformers` and `apportion.integrations.openai` are two.
Depends on `search` and `errors`; torch and httpx stay with the models.
"""

from apportion.evaluators.requests import Answer, Model, Request, Step, priors, seeds
from apportion.evaluators.states import State
from apportion.evaluators.steps import StepEvaluator

__all__ = ["Answer", "Model", "Request", "State", "Step", "StepEvaluator", "priors", "seeds"]

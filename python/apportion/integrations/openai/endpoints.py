"""The two endpoints: how each is asked to go on with a text, and how its answer is read.

Depends on nothing.
"""

from __future__ import annotations

from typing import Any, Protocol

Json = dict[str, Any]


class Endpoint(Protocol):
    """One of the two."""

    path: str

    def state(self, prompt: str, text: str) -> Json:
        """Fields that ask for what follows `text`, the answer to `prompt` so far."""

    def log_probs(self, top: int) -> Json:
        """Fields that ask for log-probs, and for those of so many of the likeliest tokens."""

    def text(self, choice: Json) -> str:
        """What an event of a stream adds.

        Raises:
            ValueError: it is no text of the answer.
        """


class Completions:
    """`/completions` goes on with plain text."""

    path = "/completions"

    def state(self, prompt: str, text: str) -> Json:
        """The text itself."""
        return {"prompt": prompt + text}

    def log_probs(self, top: int) -> Json:
        """A number alone."""
        return {"logprobs": top}

    def text(self, choice: Json) -> str:
        """The choice's text."""
        return choice.get("text") or ""


class Chat:
    """`/chat/completions` goes on with the assistant's message, where it is told to.

    The two fields that tell it so are those of vLLM, SGLang, text-generation-inference and
    llama.cpp. A server that does not know them begins another message after this one.
    """

    path = "/chat/completions"

    def messages(self, prompt: str, text: str) -> Json:
        """What was said so far."""
        said = [{"role": "user", "content": prompt}]
        return {"messages": [*said, {"role": "assistant", "content": text}] if text else said}

    def state(self, prompt: str, text: str) -> Json:
        """What was said so far, the last message to be gone on with."""
        go_on = {"add_generation_prompt": False, "continue_final_message": True} if text else {}
        return self.messages(prompt, text) | go_on

    def log_probs(self, top: int) -> Json:
        """A flag and a number."""
        return {"logprobs": True, "top_logprobs": top}

    def text(self, choice: Json) -> str:
        """What is new of the message."""
        delta = choice.get("delta") or {}
        if delta.get("reasoning_content") or delta.get("reasoning"):
            raise ValueError(
                "the model thinks before it answers, which cannot be gone on with; turn it off, "
                'for many with extra={"chat_template_kwargs": {"enable_thinking": False}}'
            )
        return delta.get("content") or ""


def log_probs_of(choice: Json) -> list[Any]:
    """Log-probs of a choice's tokens: those of llama.cpp have the chat's form everywhere."""
    found = choice.get("logprobs") or {}
    if found.get("content"):
        return [token.get("logprob") for token in found["content"]]
    return found.get("token_logprobs") or []


def likeliest(found: Json) -> dict[str, float]:
    """Log-probs of the likeliest first tokens, by their text.

    Raises:
        KeyError, IndexError, TypeError: they are not there.
    """
    if found.get("content"):
        return {top["token"]: top["logprob"] for top in found["content"][0]["top_logprobs"]}
    top: dict[str, float] = found["top_logprobs"][0]
    return top

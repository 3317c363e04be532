"""Any server with OpenAI's completions, of text or of chats, as the evaluator of a search.

    async with OpenAIEvaluator("http://localhost:8000/v1", "model") as evaluator:
        answers = await evaluator.answer(requests)

Every sample is a request of its own with its own seed, so that nothing is needed of a
server beyond `POST /completions` with `stream`, or `POST /chat/completions` with a message
that is gone on with: vLLM, SGLang and llama.cpp have both and keep the shared prefix. Text
is streamed, and a step's stream is left at the end of the step: whether a text ended by
itself or at a stop is thus known, which the endpoint's answer does not say.
Depends on `evaluators`, `connection` and `endpoints`.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from apportion.errors import EvaluatorError, OptionError
from apportion.evaluators import Answer, Request, Step
from apportion.integrations.openai.connection import Connection, Passing
from apportion.integrations.openai.endpoints import (
    Chat,
    Completions,
    Endpoint,
    Json,
    likeliest,
    log_probs_of,
)

ROUNDING = 1e-3
"""What a log-prob in half precision may be above 0."""


@dataclass(eq=False)
class OpenAIEvaluator:
    """Answers the requests of a search through `POST {url}/completions`, or a chat's.

    Args:
        url: of the API, with its version: `http://localhost:8000/v1`.
        model: its name on the server.
        template: what is sent, `{prompt}` in it standing for the prompt; without `chat` a
            chat model wants its template here. The steps so far follow it.
        chat: use `POST {url}/chat/completions`: what is sent is the user's message, the
            steps so far are the beginning of the assistant's. Needs a server that goes on
            with such a message; one that begins another is refused, where its count of
            tokens shows it. Candidates cannot be scored.
        api_key: sent as a bearer token.
        temperature: of sampling, as the server takes it.
        top_p: share of probability that is sampled from, as the server takes it.
        log_probs: ask for log-probs, of which priors are made; some servers have none.
        stop: texts with which a step ends, the text included.
        max_step_tokens: tokens after which a step ends anyhow.
        max_rollout_tokens: tokens after which a rollout is cut off.
        judge: two texts, each one token. A value is the probability of the first
            against the second after `judge_prompt`; both must be among the
            `judge_top` likeliest, one that is not counts as 0.
        judge_prompt: text put after the state for that.
        judge_top: likeliest tokens asked for with a value; servers have a maximum.
        concurrency: requests at a time.
        timeout: seconds for one attempt, the whole stream included.
        retries: further attempts after a connection that failed, a timeout or a
            passing status (408, 409, 425, 429, 500, 502, 503, 504).
        backoff: seconds before the second attempt, doubled before each further one; a
            `Retry-After` that is longer counts instead, but at most `timeout`.
        extra: further fields of the request's body.

    A request whose attempts are used up, or whose answer is not what it should be, gets
    an `Answer` with an `EvaluatorError`, which names the URL and what was got.
    """

    url: str
    model: str
    template: str = "{prompt}"
    chat: bool = False
    api_key: str | None = field(default=None, repr=False)
    temperature: float = 1.0
    top_p: float = 1.0
    log_probs: bool = True
    stop: Sequence[str] = ("\n",)
    max_step_tokens: int = 64
    max_rollout_tokens: int = 256
    judge: tuple[str, str] | None = None
    judge_prompt: str = ""
    judge_top: int = 5
    concurrency: int = 16
    timeout: float = 60.0
    retries: int = 3
    backoff: float = 0.5
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Checks the options; nothing is connected yet."""
        if "{prompt}" not in self.template:
            raise OptionError(f"template: got {self.template!r}, expected one with {{prompt}}")
        if isinstance(self.stop, str) or not all(self.stop):
            raise OptionError(f"stop: got {self.stop!r}, expected texts that are not empty")
        least = {"max_step_tokens": 1, "max_rollout_tokens": 1, "concurrency": 1, "retries": 0}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise OptionError(f"{name}: got {getattr(self, name)}, expected at least {low}")
        if not self.timeout > 0:
            raise OptionError(f"timeout: got {self.timeout}, expected seconds above 0")
        self._connection: Connection | None = None
        self._endpoint: Endpoint = Chat() if self.chat else Completions()
        self._goes_on = not self.chat  # whether the server is known to go on with a message

    async def __aenter__(self) -> OpenAIEvaluator:
        """Opens connections that last for the block."""
        self._connection = Connection(self, self._endpoint.path)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Closes them."""
        if self._connection is not None:
            await self._connection.client.aclose()
            self._connection = None

    async def answer(self, requests: Sequence[Request]) -> list[Answer]:
        """One answer a request, in order; outside a `with` block over connections of its own."""
        if self._connection is None:
            async with self:
                return await self.answer(requests)
        connection = self._connection
        refused = None
        if not self._goes_on and any(map(self._text, requests)):
            refused = await self._cannot_go_on(connection)
        return list(await asyncio.gather(*(self._answer(connection, r, refused) for r in requests)))

    async def _answer(
        self, connection: Connection, request: Request, refused: EvaluatorError | None
    ) -> Answer:
        if refused is not None and self._text(request):
            return Answer(error=refused)
        try:
            if request.kind == "value":
                return Answer(value=await self._value(connection, request))
            if request.kind == "score":
                asked = [self._score(connection, request, text) for text in request.candidates]
            else:
                asked = [self._sample(connection, request, seed) for seed in request.seeds]
            return Answer(tuple(await asyncio.gather(*asked)))
        except EvaluatorError as error:
            return Answer(error=error)

    def _text(self, request: Request) -> str:
        """What the answer is asked to follow."""
        return request.text + (self.judge_prompt if request.kind == "value" else "")

    def _body(self, request: Request, **more: Any) -> Json:
        prompt = self.template.replace("{prompt}", request.prompt)
        state = self._endpoint.state(prompt, self._text(request))
        return {"model": self.model, **state, **more, **self.extra}

    async def _cannot_go_on(self, connection: Connection) -> EvaluatorError | None:
        """Why a chat's message that is begun is not gone on with; `None` if it is.

        Beginning the message with a letter costs the prompt one token. If it costs more,
        and no less than without the request to go on, the message was closed.
        """
        chat = Chat()
        try:
            alone = await self._size(connection, chat.state("?", ""))
            begun = await self._size(connection, chat.state("?", "a"))
            if alone is not None and begun is not None and begun > alone + 1:
                plain = await self._size(connection, chat.messages("?", "a"))
                if plain is not None and plain <= begun:
                    return connection.error(
                        "the server begins a new message where it should go on with the "
                        f"assistant's: a letter costs {begun - alone} tokens; use /completions "
                        "with a template instead, or a server with continue_final_message"
                    )
        except EvaluatorError as error:
            return error
        self._goes_on = True
        return None

    async def _size(self, connection: Connection, state: Json) -> int | None:
        """Tokens of a prompt, if the server counts them."""
        body = {"model": self.model, **state, "max_tokens": 1, **self.extra}
        usage = (await connection.whole(body)).get("usage")
        size = usage.get("prompt_tokens") if isinstance(usage, dict) else None
        return size if isinstance(size, int) else None

    async def _sample(self, connection: Connection, request: Request, seed: int) -> Step:
        """One step, or one rollout."""
        expands = request.kind == "expand"
        limit = self.max_step_tokens if expands else self.max_rollout_tokens
        body = self._body(
            request,
            max_tokens=request.max_tokens or limit,
            temperature=self.temperature,
            top_p=self.top_p,
            seed=seed,
            stream=True,
        )
        if self.log_probs:
            body |= self._endpoint.log_probs(1)
        return await connection.attempts(lambda: self._read(connection, body, expands))

    async def _read(self, connection: Connection, body: Json, steps: bool) -> Step:
        """Read a stream to its end, or to the end of the step."""
        text, reason = "", None
        log_probs: list[Any] = []
        async for choice in connection.stream(body):
            try:
                text += self._endpoint.text(choice)
            except ValueError as error:
                raise connection.error(str(error)) from error
            log_probs += log_probs_of(choice)
            reason = choice.get("finish_reason") or reason
            end = _first_end(text, self.stop) if steps else None
            if end is not None:
                text, reason = text[:end], "step"
                break
        if reason is None:
            raise Passing("the stream broke off")
        if self.log_probs and text and not log_probs:
            raise connection.error("got no log-probs; set log_probs=False for this server")
        return Step(text, (), _numbers(log_probs, connection), done=reason == "stop")

    async def _score(self, connection: Connection, request: Request, text: str) -> Step:
        """Log-probs of a candidate, of a request that is echoed."""
        if self.chat:
            raise OptionError('chat: got True, expected False for requests of kind "score"')
        body = self._body(request, max_tokens=1, echo=True, logprobs=1)
        start = len(body["prompt"])
        body["prompt"] += text
        found = await self._choice(connection, body, "echo")
        try:
            tokens, offsets = found["tokens"], found["text_offset"]
            inside = [
                log_prob
                for token, at, log_prob in zip(
                    tokens, offsets, found["token_logprobs"], strict=True
                )
                if at + len(token) > start and at < start + len(text)
            ]
        except (KeyError, TypeError, ValueError) as error:
            raise connection.error(f"no offsets of echoed tokens: {error!r}") from error
        if not inside:
            raise connection.error("no echoed tokens: the server does not score candidates")
        return Step(text, (), _numbers(inside, connection))

    async def _value(self, connection: Connection, request: Request) -> float:
        """P(good) / (P(good) + P(bad)) of the next token."""
        if self.judge is None:
            raise OptionError('judge: got None, expected two texts, for requests of kind "value"')
        top_of = self._endpoint.log_probs(self.judge_top)
        body = self._body(request, max_tokens=1, temperature=0.0, **top_of)
        found = await self._choice(connection, body, "top log-probs")
        try:
            top = likeliest(found)
            good, bad = (math.exp(top[text]) if text in top else 0.0 for text in self.judge)
        except (KeyError, TypeError, IndexError, ValueError) as error:
            raise connection.error(f"no top_logprobs: {error!r}") from error
        if not good + bad > 0:
            raise connection.error(f"neither of {self.judge} among the likeliest {sorted(top)}")
        return good / (good + bad)

    async def _choice(self, connection: Connection, body: Json, what: str) -> Any:
        """The log-probs of an answer that is not streamed."""
        reply = await connection.whole(body)
        try:
            found = reply["choices"][0].get("logprobs")
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise connection.error(f"no completion: {error!r}") from error
        if not isinstance(found, dict):
            raise connection.error(f"got no log-probs: the server has no {what}")
        return found


def _first_end(text: str, stops: Sequence[str]) -> int | None:
    """Where the first stop after the leading blanks ends."""
    lead = len(text) - len(text.lstrip())
    found = [text.find(stop, lead) + len(stop) for stop in stops if text.find(stop, lead) >= 0]
    return min(found, default=None)


def _numbers(log_probs: Sequence[Any], connection: Connection) -> tuple[float, ...]:
    """Log-probs, each a finite number or refused; what rounding left above 0 is 0."""
    for value in log_probs:
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not -math.inf < value < ROUNDING
        ):
            raise connection.error(f"got log-prob {value!r}, expected a number of at most 0")
    return tuple(min(float(value), 0.0) for value in log_probs)

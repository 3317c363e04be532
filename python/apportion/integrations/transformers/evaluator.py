"""A causal language model as the evaluator of a search.

    evaluator = TransformersEvaluator(model, tokenizer, temperature=0.8)
    answers = evaluator.answer(requests)

All requests of a call are one batch, and what their prefixes share is computed once:
keys and values of a prefix are kept, so that a child costs the tokens of its own step.
Depends on `prefix_cache`, `rows`, `sampling` and `evaluators`; imports torch and transformers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from apportion.errors import EvaluatorError, ExtraMissingError, InputError, OptionError
from apportion.evaluators import Answer, Request, Step

try:
    import torch

    from apportion.integrations.transformers.prefix_cache import Batch, PrefixCache, shares
    from apportion.integrations.transformers.rows import Prefix, Row, draws, ends_of
    from apportion.integrations.transformers.sampling import Sampling, choose
except ImportError as missing:
    raise ExtraMissingError(
        'apportion.integrations.transformers needs transformers: pip install "apportion[search]"'
    ) from missing

PROPOSALS = ("sample", "top_k")


class TransformersEvaluator:
    """Answers the requests of a search with a causal model of transformers.

    Args:
        model: any causal model, on any device.
        tokenizer: its tokenizer. With a chat template, a prompt is the user's message
            and the answer the assistant's.
        temperature: of sampling; 0 takes the likeliest tokens.
        top_k: how many of the likeliest tokens are sampled from; 0 is all.
        top_p: the likeliest tokens that have this probability together are sampled from.
        proposals: `"sample"` samples the steps of an expansion, `"top_k"` begins them
            with the likeliest first tokens and goes on with the likeliest each.
        stop: texts with which a step ends, the text included; blank ones at its
            beginning do not end it.
        max_step_tokens: tokens after which a step ends anyhow.
        max_rollout_tokens: tokens after which a rollout is cut off.
        judge: two texts, each one token, of a good and a bad state. A value is the
            probability of the first against the second after `judge_prompt`.
        judge_prompt: text put after the state for that.
        batch_size: continuations that are generated together.
        cache_tokens: prefix tokens whose keys and values are kept.

    A sample is fixed by its request's seed up to rounding: the sums inside a matrix
    product may depend on the size of the batch.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        proposals: str = "sample",
        stop: Sequence[str] = ("\n",),
        max_step_tokens: int = 64,
        max_rollout_tokens: int = 256,
        judge: tuple[str, str] | None = None,
        judge_prompt: str = "",
        batch_size: int = 64,
        cache_tokens: int = 65536,
    ) -> None:
        """Checks the options; nothing is computed yet."""
        if proposals not in PROPOSALS:
            raise OptionError(
                f"proposals: got {proposals!r}, expected one of {', '.join(PROPOSALS)}"
            )
        if isinstance(stop, str) or not all(stop):
            raise OptionError(f"stop: got {stop!r}, expected texts that are not empty")
        limits = {
            "max_step_tokens": max_step_tokens,
            "max_rollout_tokens": max_rollout_tokens,
            "batch_size": batch_size,
            "cache_tokens": cache_tokens,
        }
        for name, value in limits.items():
            if value < 1:
                raise OptionError(f"{name}: got {value}, expected at least 1")
        self.model, self.tokenizer = model.eval(), tokenizer
        self.sampling = Sampling(temperature, top_k, top_p)
        self.proposals, self.stop = proposals, tuple(stop)
        self.max_tokens = {"expand": max_step_tokens, "rollout": max_rollout_tokens}
        self.batch_size = batch_size
        self.judge_prompt = judge_prompt
        self.judge = None if judge is None else tuple(self._one_token(text) for text in judge)
        self.ends = ends_of(model, tokenizer)
        self.limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        self.cache = PrefixCache(model, cache_tokens) if shares(model) else None
        self._prompts: dict[str, tuple[int, ...]] = {}

    def answer(self, requests: Sequence[Request]) -> list[Answer]:
        """One answer a request, in order.

        Raises:
            InputError: a prompt longer than the model takes.
            EvaluatorError: logits that are no numbers.
        """
        with torch.inference_mode():
            return self._answer(requests)

    def _answer(self, requests: Sequence[Request]) -> list[Answer]:
        answers: list[Answer | None] = [None] * len(requests)
        rows: list[Row] = []
        spans: list[tuple[int, int, int]] = []
        for i, request in enumerate(requests):
            if request.kind == "score":
                answers[i] = self._score(request)
            elif request.kind == "value":
                answers[i] = Answer(value=self._value(request))
            else:
                made = self._rows(request)
                spans.append((i, len(rows), len(rows) + len(made)))
                rows += made
        for start in range(0, len(rows), self.batch_size):
            self._generate(rows[start : start + self.batch_size])
        for i, first, last in spans:
            before = self._answer_tokens(requests[i])
            answers[i] = Answer(tuple(self._step(before, row) for row in rows[first:last]))
        return [answer for answer in answers if answer is not None]

    def step(self, tokens: Sequence[int]) -> Step:
        """Tokens of an answer as one step."""
        text = self.tokenizer.decode(list(tokens), skip_special_tokens=True)
        return Step(text, tuple(tokens), done=bool(tokens) and tokens[-1] in self.ends)

    # Prefixes

    def prompt_tokens(self, prompt: str) -> tuple[int, ...]:
        """Tokens of a prompt, the chat template's among them."""
        if prompt not in self._prompts:
            text, special = prompt, True
            if getattr(self.tokenizer, "chat_template", None):
                text, special = (
                    self.tokenizer.apply_chat_template(
                        [{"role": "user", "content": prompt}],
                        tokenize=False,
                        add_generation_prompt=True,
                    ),
                    False,
                )
            ids = self.tokenizer(text, add_special_tokens=special).input_ids
            if self.limit is not None and len(ids) >= self.limit:
                raise InputError(
                    f"prompt {prompt[:40]!r}: got {len(ids)} tokens, expected fewer than the "
                    f"{self.limit} that the model takes"
                )
            if not ids:
                raise InputError("prompt: got no tokens, expected at least one")
            self._prompts[prompt] = tuple(ids)
        return self._prompts[prompt]

    def _encode(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer(text, add_special_tokens=False).input_ids)

    def _answer_tokens(self, request: Request) -> list[int]:
        """Tokens of the steps so far; those that have none are tokenised."""
        return [t for step in request.steps for t in step.tokens or self._encode(step.text)]

    def _prefix(self, request: Request) -> Prefix:
        tokens = list(self.prompt_tokens(request.prompt))
        cuts = [len(tokens)]
        for step in request.steps:
            tokens += step.tokens or self._encode(step.text)
            cuts.append(len(tokens))
        return tuple(tokens), tuple(cuts)

    def _room(self, prefix: Prefix) -> int:
        return 1 << 30 if self.limit is None else self.limit - len(prefix[0])

    # Generation

    def _rows(self, request: Request) -> list[Row]:
        """What is to be written for a request; nothing where the context is full."""
        prefix = self._prefix(request)
        room = min(request.max_tokens or self.max_tokens[request.kind], self._room(prefix))
        if request.kind == "rollout":
            if room <= 0:
                return [Row(prefix, (), 0, None) for _ in request.seeds]
            return [Row(prefix, (), room, draws(seed, room)) for seed in request.seeds]
        if room <= 0:
            return []
        if self.proposals == "sample":
            return [Row(prefix, self.stop, room, draws(seed, room)) for seed in request.seeds]
        count = min(request.count, self.model.config.get_text_config().vocab_size)
        return [Row(prefix, self.stop, room, None, first=rank) for rank in range(count)]

    def _generate(self, rows: list[Row]) -> None:
        """Write rows to their ends; rows that have ended leave the batch."""
        rows = [row for row in rows if row.room > 0]
        if not rows:
            return
        if self.cache is None:
            # No padding: rows of one prefix are a batch.
            for prefix in dict.fromkeys(row.prefix for row in rows):
                same = [row for row in rows if row.prefix == prefix]
                batch = Batch.empty(self.model, len(same))
                self._write(batch, same, batch.feed([prefix[0]] * len(same)))
            return
        starts = self.cache.get([row.prefix for row in rows])
        logits = torch.stack([start.logits for start in starts])
        self._write(Batch.of(self.model, starts), rows, logits)

    def _write(self, batch: Batch, rows: list[Row], logits: torch.Tensor) -> None:
        while True:
            if not bool(torch.isfinite(logits.logsumexp(-1)).all()):
                raise EvaluatorError("model: logits that are no numbers")
            tokens = [
                row.first if row.first is not None and not row.tokens else None for row in rows
            ]
            draws = [None if row.draws is None else row.draws[len(row.tokens)] for row in rows]
            for row, token, log_prob in zip(
                rows, *choose(logits, draws, tokens, self.sampling), strict=True
            ):
                row.tokens.append(token)
                row.log_probs.append(log_prob)
                row.done = token in self.ends
            going = [i for i, row in enumerate(rows) if not self._ended(row)]
            if not going:
                return
            if len(going) < len(rows):
                batch.keep(going)
                rows = [rows[i] for i in going]
            logits = batch.feed([[row.tokens[-1]] for row in rows])

    def _ended(self, row: Row) -> bool:
        if row.done or len(row.tokens) >= row.room:
            return True
        if not row.stops:
            return False
        text = self.tokenizer.decode(row.tokens, skip_special_tokens=True).lstrip()
        return any(stop in text for stop in row.stops)

    def _step(self, before: list[int], row: Row) -> Step:
        """The row as a step; its text is what it adds, which spaces may depend on."""
        start = self.tokenizer.decode(before, skip_special_tokens=True) if before else ""
        text = self.tokenizer.decode(before + row.tokens, skip_special_tokens=True)
        return Step(text[len(start) :], tuple(row.tokens), tuple(row.log_probs), row.done)

    # Scores and values

    def _score(self, request: Request) -> Answer:
        """Log-probs of the candidates' tokens after the state, all as one batch."""
        candidates = [self._encode(text) for text in request.candidates]
        for i, (text, tokens) in enumerate(zip(request.candidates, candidates, strict=True)):
            if not tokens:
                raise InputError(f"candidates[{i}]: got {text!r}, which has no tokens")
        if not candidates:
            return Answer()
        prefix = self._prefix(request)
        state, most = prefix[0], max(map(len, candidates))
        if self._room(prefix) < most:
            raise EvaluatorError(f"score: no room for {most} tokens after {len(state)}")
        if self.cache is None:
            rows = [(self._full_logits([*state, *c])[len(state) - 1 :], c) for c in candidates]
        else:
            (start,) = self.cache.get([prefix])
            batch = Batch.of(self.model, [start] * len(candidates))
            after = batch.feed(candidates, every=True)
            first = start.logits.expand(len(candidates), 1, -1)
            rows = list(zip(torch.cat([first, after], dim=1), candidates, strict=True))
        steps = []
        for text, (logits, tokens) in zip(request.candidates, rows, strict=True):
            index = torch.tensor(tokens, device=logits.device)[:, None]
            log_probs = logits[: len(tokens)].log_softmax(-1).gather(-1, index)[:, 0].tolist()
            steps.append(Step(text, tokens, tuple(log_probs)))
        return Answer(tuple(steps))

    def _value(self, request: Request) -> float:
        """P(good) / (P(good) + P(bad)) after the state and the judge's prompt."""
        if self.judge is None:
            raise OptionError('judge: got None, expected two texts, for requests of kind "value"')
        prefix = self._prefix(request)
        asked = self._encode(self.judge_prompt)
        if self._room(prefix) <= len(asked):
            raise EvaluatorError(f"value: no room for the judge after {len(prefix[0])} tokens")
        if self.cache is None:
            logits = self._full_logits([*prefix[0], *asked])[-1]
        else:
            (start,) = self.cache.get([prefix])
            logits = start.logits
            if asked:
                logits = Batch.of(self.model, [start]).feed([asked])[0]
        pair = logits[torch.tensor(self.judge, device=logits.device)]
        return float(pair.softmax(-1)[0])

    def _full_logits(self, tokens: Sequence[int]) -> torch.Tensor:
        return Batch.empty(self.model, 1).feed([tokens], every=True)[0]

    def _one_token(self, text: str) -> int:
        tokens = self._encode(text)
        if len(tokens) != 1:
            raise OptionError(f"judge: {text!r} is {len(tokens)} tokens, expected one")
        return tokens[0]

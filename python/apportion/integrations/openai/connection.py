"""Open connections to an OpenAI-compatible server: attempts, limits, streams. Imports httpx."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Protocol, TypeVar

from apportion.errors import EvaluatorError, ExtraMissingError

try:
    import httpx
except ImportError as missing:
    raise ExtraMissingError(
        'apportion.integrations.openai needs httpx: pip install "apportion[search]"'
    ) from missing

PASSING = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
"""Statuses after which the same request may succeed."""

T = TypeVar("T")


class Passing(Exception):
    """A failure after which another attempt is worth its time, after `wait` seconds."""

    def __init__(self, what: str, wait: float = 0.0) -> None:
        """What was seen, and how long the server wants to be left alone."""
        super().__init__(what)
        self.wait = wait


class Server(Protocol):
    """Where a server is, and how much patience it is given."""

    url: str
    api_key: str | None
    concurrency: int
    timeout: float
    retries: int
    backoff: float


class Connection:
    """Open connections to the server, with attempts and limits."""

    def __init__(self, options: Server, path: str) -> None:
        """Connects with the first request."""
        self.url = options.url.rstrip("/") + path
        self._options = options
        self._places = asyncio.Semaphore(options.concurrency)
        headers = {"Authorization": f"Bearer {options.api_key}"} if options.api_key else {}
        limits = httpx.Limits(max_connections=options.concurrency)
        self.client = httpx.AsyncClient(headers=headers, timeout=options.timeout, limits=limits)

    def error(self, what: str) -> EvaluatorError:
        """An error that names the server."""
        return EvaluatorError(f"{self.url}: {what}")

    async def attempts(self, ask: Callable[[], Awaitable[T]]) -> T:
        """What `ask` returns, asked again after failures that may pass."""
        options = self._options
        for attempt in range(options.retries + 1):
            wait = options.backoff * 2**attempt
            try:
                async with self._places:
                    return await asyncio.wait_for(ask(), options.timeout)
            except Passing as passing:
                reason = str(passing)
                wait = max(wait, min(passing.wait, options.timeout))
            except (asyncio.TimeoutError, httpx.TimeoutException):
                reason = f"no answer within {options.timeout:g} s"
            except httpx.TransportError as failed:
                reason = f"{type(failed).__name__}: {failed}"
            if attempt < options.retries:
                await asyncio.sleep(wait)
        raise self.error(f"{reason}; {options.retries + 1} attempts")

    async def stream(self, body: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """The choices of a streamed answer, one an event."""
        async with self.client.stream("POST", self.url, json=body) as reply:
            await self.check(reply)
            async for line in reply.aiter_lines():
                if not line.startswith("data:"):
                    continue
                data = line[len("data:") :].strip()
                if data == "[DONE]":
                    return
                try:
                    event = json.loads(data)
                    choices = event.get("choices")
                except (ValueError, AttributeError) as error:
                    raise self.error(f"got {data[:80]!r}, expected an event") from error
                if event.get("error"):
                    raise Passing(f"the server's error: {str(event['error'])[:200]}")
                if choices:
                    yield choices[0]

    async def whole(self, body: dict[str, Any]) -> dict[str, Any]:
        """An answer that is not streamed."""

        async def ask() -> dict[str, Any]:
            reply = await self.client.post(self.url, json=body)
            await self.check(reply)
            try:
                found = reply.json()
            except ValueError as error:
                raise self.error(f"no completion: {error!r}") from error
            if not isinstance(found, dict):
                raise self.error(f"no completion: got {type(found).__name__}, expected an object")
            return found

        return await self.attempts(ask)

    async def check(self, reply: httpx.Response) -> None:
        """Raise what a status means."""
        if reply.status_code < 400:
            return
        text = (await reply.aread()).decode("utf-8", "replace")
        what = f"status {reply.status_code}: {' '.join(text.split())[:200]}"
        if reply.status_code in PASSING:
            raise Passing(what, _seconds(reply.headers.get("retry-after")))
        raise self.error(what)


def _seconds(header: str | None) -> float:
    """A `Retry-After` in seconds; one that is a date counts as none."""
    try:
        return max(0.0, float(header or 0))
    except ValueError:
        return 0.0

"""What trainers and agents write, as records of our schema. Depends on `lines` and `schema`.

Each function takes one line or row and returns one record. Fields that nothing
here needs are kept in the record's `meta` where they are short.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from apportion.io import schema
from apportion.io.lines import Place

Row = Mapping[str, Any]
Record = dict[str, Any]

GROUP_KEYS = ("group", "group_id", "uid")
REWARD_KEYS = ("reward", "score", "outcome")
TRL_COLUMNS = {"step", "prompt", "completion", "advantage"}


@dataclass(frozen=True)
class Keys:
    """Which fields hold what, where the caller says so or the file's columns do."""

    group: str | None = None
    rewards: tuple[str, ...] = ()
    scores: tuple[str, ...] = ()
    """Columns of numbers, known where the file has a schema (Parquet)."""


def openai(row: Row, keys: Keys, place: Place) -> Record:
    """A conversation: each assistant message is a turn, what came since the last its observation.

    An assistant message may carry `reward`.
    """
    messages = _messages(row.get("messages"), "messages", place)
    turns, asked = _conversation(messages, place, "messages")
    group = _group(row, keys, place)
    return {
        "group": _digest(asked) if group is None else group,
        "trajectory": _first(row, ("trajectory", "id")),
        "outcome": _outcome(row, keys, REWARD_KEYS, place),
        "turns": turns,
        "meta": _meta(row, {"messages", "tools"}),
        **_columns(row),
    }


def verl(row: Row, keys: Keys, place: Place) -> Record:
    """A line of verl's rollout dump: prompt and response as text, with score and step.

    The dump has no uid: rows of one step with the same `input` are a group.
    """
    for name in ("input", "output"):
        if not isinstance(row.get(name), str):
            place.fail(name, f"got {schema.kind(row.get(name))}, expected a string")
    group = _group(row, keys, place)
    return {
        "group": _digest([row.get("step"), row["input"]]) if group is None else group,
        "trajectory": _first(row, ("trajectory", "request_id")),
        "outcome": _outcome(row, keys, ("score",), place),
        "turns": [{"text": row["output"], "observation": row["input"]}],
        "meta": _meta(row, {"input", "output"}),
    }


def trl(row: Row, keys: Keys, place: Place) -> Record:
    """A row of TRL's completions table. The outcome is the sum of its reward columns.

    Prompt and completion are texts or messages. Rows of one step with the same
    prompt are a group. Several reward columns are also the column `reward_matrix`;
    null means that a function did not apply.
    """
    prompt, completion = row.get("prompt"), row.get("completion")
    if isinstance(completion, str):
        observation = prompt if isinstance(prompt, str) else _transcript(prompt, place)
        turns = [{"text": completion, "observation": observation}]
    else:
        before = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        asked = _messages(before, "prompt", place)
        said = _messages(completion, "completion", place)
        turns, _ = _conversation([*asked, *said], place, "completion", skip=len(asked))
    names = keys.rewards or tuple(n for n in keys.scores if n not in TRL_COLUMNS)
    if not names:
        place.fail("rewards", f"no column of numbers besides {', '.join(sorted(TRL_COLUMNS))}")
    rewards = [_number(row, name, place) for name in names]
    present = [value for value in rewards if value is not None]
    group = _group(row, keys, place)
    record = {
        "group": _digest([row.get("step"), prompt]) if group is None else group,
        "outcome": sum(present) if present else None,
        "turns": turns,
        "meta": {"rewards": dict(zip(names, rewards, strict=True)), **_meta(row, set(names))},
    }
    return {**record, "reward_matrix": rewards} if len(names) > 1 else record


def _conversation(
    messages: Sequence[Row], place: Place, field: str, skip: int = 0
) -> tuple[list[Record], list[Any]]:
    """Turns after the first `skip` messages, and the messages before the first turn."""
    turns: list[Record] = []
    asked: list[Any] = []
    since: list[str] = []
    for index, message in enumerate(messages):
        if message["role"] != "assistant" or index < skip:
            since.append(f"{message['role']}: {_text(message)}")
            if not turns:
                asked.append([message["role"], _text(message)])
            continue
        turn = {"text": _text(message), "observation": "\n\n".join(since)}
        if message.get("tool_calls"):
            turn["tool_calls"] = _calls(message["tool_calls"], place, f"{field}[{index - skip}]")
            turn["text"] = "\n".join(filter(None, [turn["text"], turn["tool_calls"]]))
        if "reward" in message:
            turn["reward"] = message["reward"]
        turns.append(turn)
        since = []
    if any("tool_calls" in turn for turn in turns):
        for turn in turns:
            turn.setdefault("tool_calls", "")
    return turns, asked


def _messages(value: Any, field: str, place: Place) -> list[Row]:
    if not isinstance(value, list):
        place.fail(field, f"got {schema.kind(value)}, expected a list of messages")
    for index, message in enumerate(value):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            place.fail(f"{field}[{index}]", "expected an object with a role")
        content = message.get("content")
        if content is not None and not isinstance(content, str | list):
            got = schema.kind(content)
            place.fail(f"{field}[{index}].content", f"got {got}, expected text, parts or null")
    return value


def _text(message: Row) -> str:
    """The text of a message; of content in parts, that of its text parts."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    parts = [part for part in content or [] if isinstance(part, dict)]
    return "".join(str(part["text"]) for part in parts if part.get("text") is not None)


def _calls(calls: Any, place: Place, field: str) -> str:
    """Tool calls as a JSON list of objects with name and arguments."""
    if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
        place.fail(f"{field}.tool_calls", f"got {schema.kind(calls)}, expected a list of objects")
    simple = []
    for call in calls:
        function = call.get("function") or call
        arguments = function.get("arguments")
        if isinstance(arguments, str):
            # What a model wrote need not be JSON; it stays text then.
            with contextlib.suppress(ValueError):
                arguments = json.loads(arguments)
        simple.append({"name": function.get("name"), "arguments": arguments})
    return json.dumps(simple, ensure_ascii=False)


def _transcript(prompt: Any, place: Place) -> str:
    return "\n\n".join(f"{m['role']}: {_text(m)}" for m in _messages(prompt, "prompt", place))


def _group(row: Row, keys: Keys, place: Place) -> str | int | None:
    """The group's key, or `None` where the row has none."""
    if keys.group is None:
        found = _first(row, GROUP_KEYS)
        return found if isinstance(found, str | int) else None
    if row.get(keys.group) is None:
        place.fail(keys.group, f"missing; got {', '.join(row)}")
    schema.key(row[keys.group], keys.group, place)
    group: str | int = row[keys.group]
    return group


def _outcome(row: Row, keys: Keys, names: Sequence[str], place: Place) -> float | None:
    if keys.rewards:
        values = [_number(row, name, place) for name in keys.rewards]
        present = [value for value in values if value is not None]
        return sum(present) if present else None
    for name in names:
        if name in row:
            return _number(row, name, place)
    place.fail(names[0], f"no outcome: none of {', '.join(names)}; got {', '.join(row)}")


def _number(row: Row, name: str, place: Place) -> float | None:
    """A reward; NaN and null are absent."""
    if name not in row:
        place.fail(name, f"missing; got {', '.join(row)}")
    value = row[name]
    schema.reward(value, name, place)
    return None if value is None or value != value else value


def _first(row: Row, names: Sequence[str]) -> Any:
    return next((row[name] for name in names if row.get(name) is not None), None)


def _digest(value: Any) -> str:
    """A short name for what was asked."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).hexdigest()


def _meta(row: Row, without: set[str]) -> Record:
    """Fields that are short enough to be looked at beside the turns."""
    short = {n: v for n, v in row.items() if n not in without and not isinstance(v, list | dict)}
    return {n: v for n, v in short.items() if not isinstance(v, str) or len(v) <= 200}


def _columns(row: Row) -> Record:
    """Columns of methods that stand beside the messages."""
    return {name: row[name] for name in row.keys() & schema.trajectory_columns()}

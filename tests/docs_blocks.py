"""Code blocks of Markdown files, and what running one means. Used by `test_docs.py`.

- `python` is executed; the blocks of a page share their names, as a reader would.
- `console` lists commands, one a line, after a `$` or not. Those of `apportion` are
  run, others (`make`, `pip`) are not; lines after a `$` command are its output.
- `json` is parsed, line by line.
- `text` directly after a `python` block is what that prints, where `...` stands for
  anything and white space does not count.
"""

from __future__ import annotations

import ast
import contextlib
import doctest
import io
import json
import os
import re
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FENCE = re.compile(r"^( *)```([\w-]*)[^\n`]*\n(.*?)^\1```[ ]*$", re.MULTILINE | re.DOTALL)
# What a block may need beside the package.
TRAINERS = ("verl", "trl", "torch", "transformers", "openai")
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, text, first line, and the output that follows it."""

    language: str
    text: str
    line: int
    output: str | None = None

    @property
    def needs(self) -> str | None:
        """The heaviest of the trainers that the block imports."""
        if self.language != "python":
            return None
        nodes = list(ast.walk(ast.parse(self.text)))
        imported = [
            name.name for node in nodes if isinstance(node, ast.Import) for name in node.names
        ]
        imported += [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
        parts = {part for name in imported for part in name.split(".")}
        return next((trainer for trainer in TRAINERS if trainer in parts), None)


def blocks(markdown: str) -> list[Block]:
    """The fenced blocks of a page in order."""
    found: list[Block] = []
    end = 0
    for match in FENCE.finditer(markdown):
        language, text = match[2], textwrap.dedent(match[3])
        line = markdown.count("\n", 0, match.start()) + 1
        follows = found and not markdown[end : match.start()].strip()
        if language == "text" and follows and found[-1].language == "python":
            last = found[-1]
            found[-1] = Block(last.language, last.text, last.line, text)
        else:
            found.append(Block(language, text, line))
        end = match.end()
    return found


def run(block: Block, names: dict[str, Any], where: str) -> None:
    """Run a block as its language says; names that it binds stay in `names`."""
    if block.language == "python":
        printed = io.StringIO()
        # As many lines before it as in the page, so that a traceback shows the page's line.
        source = "\n" * block.line + block.text
        with contextlib.redirect_stdout(printed):
            exec(compile(source, where, "exec"), names)
        if block.output is not None:
            compare(printed.getvalue(), block.output, f"{where}:{block.line}")
    elif block.language == "console":
        for command, output in commands(block.text):
            got = shell(command, f"{where}:{block.line}")
            if output.strip():
                compare(got, output, f"{where}:{block.line}: {command}")
    elif block.language == "json":
        for line in block.text.splitlines():
            json.loads(line)


def compare(got: str, want: str, where: str) -> None:
    """Fails if what was printed is not what the page says."""
    if not doctest.OutputChecker().check_output(want, got, FLAGS):
        raise AssertionError(f"{where} printed\n{got}\nbut the page says\n{want}")


def commands(text: str) -> Iterator[tuple[str, str]]:
    """Commands of `apportion` in a console block, each with the output that the page shows."""
    joined = text.replace("\\\n", " ")
    if re.search(r"^\$ ", joined, re.MULTILINE):
        pairs = [part.partition("\n") for part in re.split(r"^\$ ", joined, flags=re.MULTILINE)[1:]]
        listed = [(command, output) for command, _, output in pairs]
    else:
        listed = [(line, "") for line in joined.splitlines()]
    for command, output in listed:
        if command.startswith(("apportion ", "python -m apportion ")):
            yield command, output


def shell(command: str, where: str) -> str:
    """What a command of `apportion` prints. No shell: pages use none of its features."""
    words = shlex.split(command, comments=True)
    arguments = words[words.index("apportion") + 1 :]
    done = subprocess.run(
        [sys.executable, "-m", "apportion", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "100"},
    )
    assert done.returncode == 0, f"{where}: {command}\n{done.stderr}"
    return done.stdout


def pages(root: Path) -> dict[str, list[Block]]:
    """Blocks of README and of every page under docs/, by path."""
    files = [root / "README.md", *sorted((root / "docs").rglob("*.md"))]
    return {str(file.relative_to(root)): blocks(file.read_text("utf-8")) for file in files}

"""Pages that the package writes of itself: one a method, the list of methods, the columns.

A hook of MkDocs (`hooks` in mkdocs.yml). The pages are made of `apportion.methods()`
and `apportion.columns()` alone, so a new method has a page without an edit here.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import apportion
from apportion.cli.methods import shown
from apportion.methods import MethodCard, Option
from apportion.search.rules import RuleCard

CERTAINTY = {
    "code": "agrees with the authors' code on reference cases",
    "paper": "follows the paper's text; there was no code to run",
    "third-party": "follows another trainer's implementation of the paper",
    "reconstructed": "completed by us where the sources leave gaps",
    "own": "our own, without another source",
}

FAMILIES = {
    "descent": "Down from the root, child by child, to a node that is expanded; values go back "
    "up. `Search.nodes()` has visits and means, `Search.policy()` the root's choice.",
    "pool": "Rollouts from a state estimate it. A rollout that went wrong is halved until its "
    "first error is found, or every step of it is valued. `Search.bisections()` has the halvings, "
    "`Search.nodes().q` the estimates.",
    "beam": "Partial answers side by side, thinned out by their scores. `Search.finals()` has "
    "the nodes that the search ends with.",
    "branching": "Trees of rollouts to train on. `Search.credit()` reads credit from them.",
}


def on_config(config: Any) -> Any:
    """Fill in the methods' part of the navigation, and leave out pages that are not there."""
    generated = {name for name, _ in pages()}
    folder = Path(config["docs_dir"])

    def present(items: list[Any]) -> Iterator[Any]:
        for item in items:
            if isinstance(item, str):
                if item in generated or (folder / item).exists():
                    yield item
                continue
            title, inside = next(iter(item.items()))
            if inside in ("methods", "rules"):
                own = sorted(n for n in generated if n.startswith(f"{inside}/"))
                own.remove(f"{inside}/index.md")
                yield {title: [f"{inside}/index.md", *own]}
            elif isinstance(inside, str):
                yield item
            else:
                yield {title: list(present(inside))}

    config["nav"] = list(present(config["nav"]))
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the pages."""
    from mkdocs.structure.files import File

    for name, text in pages():
        files.append(File.generated(config, name, content=text))
    return files


def pages() -> Iterator[tuple[str, str]]:
    """Path and Markdown of every page."""
    cards = apportion.methods()
    yield "methods/index.md", listing(cards.values())
    for card in cards.values():
        yield f"methods/{card.name}.md", method(card)
    yield "columns.md", columns()
    rules = apportion.search_rules()
    yield "rules/index.md", rule_listing(rules.values())
    for rule in rules.values():
        yield f"rules/{rule.name}.md", rule_page(rule)


def listing(cards: Iterable[MethodCard]) -> str:
    """All methods in one table a granularity."""
    cards = list(cards)
    parts = [
        "# All methods",
        f"{len(cards)} methods, by the smallest unit within which their credit can differ. "
        "[Choosing a method](../choosing.md) says which for what.",
    ]
    for level in ("trajectory", "turn", "token"):
        rows = [
            (f"[`{card.name}`]({card.name}.md)", card.title, card.family, link(card.paper))
            for card in cards
            if card.granularity == level
        ]
        parts += [f"## By {level}", table(("method", "title", "family", "source"), rows)]
    meanings = [(f"`{name}`", meaning) for name, meaning in CERTAINTY.items()]
    parts += [
        "## Certainty",
        "How sure we are that a method is its authors'. Each page says it.",
        table(("certainty", "meaning"), meanings),
    ]
    return "\n\n".join(parts) + "\n"


def method(card: MethodCard) -> str:
    """A method's page."""
    spans = (
        "on other groups of the batch too"
        if card.batch_wide
        else "on a trajectory's own group alone"
    )
    facts = [
        ("granularity", card.granularity),
        ("family", card.family),
        ("source", link(card.paper)),
        ("certainty", f"{card.certainty}: {CERTAINTY[card.certainty]}"),
        ("credit depends", spans),
    ]
    needed = [c.name for c in card.columns if c.required]
    parts = [
        f"---\ntitle: {card.name}\n---",
        f"# {card.name}: {card.title}",
        "\n".join(f"- {name}: {value}" for name, value in facts),
        markdown(card.doc),
        "## Columns",
        table(
            ("column", "level", "needed", "what it holds"),
            [
                (f"`{c.name}`", c.level, "yes" if c.name in needed else "no", one_line(c.doc))
                for c in card.columns
            ],
        ),
        "## Options",
        options_table(card.options),
    ]
    if card.presets:
        presets = [
            (f'`like="{trainer}"`', ", ".join(f"`{k}={v!r}`" for k, v in preset.items()) or "none")
            for trainer, preset in card.presets.items()
        ]
        parts += ["## As trainers set it", table(("preset", "options that differ"), presets)]
    return "\n\n".join(parts) + "\n"


def options_table(options: Iterable[Option]) -> str:
    """Options with their defaults; a word where there are none."""
    rows = [(f"`{o.name}`", f"`{shown(o.default)}`", o.expected, one_line(o.doc)) for o in options]
    return table(("option", "default", "accepted", "what it does"), rows) if rows else "None."


def rule_listing(cards: Iterable[RuleCard]) -> str:
    """All rules of search, one table a family."""
    cards = list(cards)
    parts = [
        "# All rules of search",
        f"{len(cards)} rules for `Search(..., rule=...)`. A rule says what a tree asks and what "
        "an answer changes; budgets, order of answers, failures and resuming are the same for "
        "all. `apportion.search_rules()` lists them in Python.",
    ]
    for family, what in FAMILIES.items():
        rows = [
            (f"[`{card.name}`]({card.name}.md)", card.title, link(card.paper), card.certainty)
            for card in cards
            if card.family == family
        ]
        head = ("rule", "title", "source", "certainty")
        parts += [f"## {family.capitalize()}", what, table(head, rows)]
    meanings = [(f"`{name}`", meaning) for name, meaning in CERTAINTY.items()]
    parts += ["## Certainty", table(("certainty", "meaning"), meanings)]
    return "\n\n".join(parts) + "\n"


def rule_page(card: RuleCard) -> str:
    """A rule's page."""
    facts = [
        ("family", card.family),
        ("source", link(card.paper)),
        ("certainty", f"{card.certainty}: {CERTAINTY[card.certainty]}"),
    ]
    parts = [
        f"---\ntitle: {card.name}\n---",
        f"# {card.name}: {card.title}",
        "\n".join(f"- {name}: {value}" for name, value in facts),
        markdown(card.doc),
        "## Options",
        options_table(card.options),
    ]
    return "\n\n".join(parts) + "\n"


def columns() -> str:
    """The page of every column that some method reads."""
    readers: dict[str, list[str]] = {}
    for card in apportion.methods().values():
        for column in card.columns:
            readers.setdefault(column.name, []).append(f"[`{card.name}`](methods/{card.name}.md)")
    rows = [
        (f"`{name}`", column.level, one_line(column.doc), ", ".join(readers[name]))
        for name, column in apportion.columns().items()
    ]
    return "\n\n".join(
        [
            "---\nhide: [toc]\n---",
            "# Columns",
            "What methods read, by name, as `Rollouts.from_padded` takes it. The "
            "[level](concepts.md#levels) says how many values there are.",
            table(("column", "level", "what it holds", "read by"), rows),
        ]
    )


def markdown(doc: str) -> str:
    """Documentation as the core has it: headings one level lower, links of rustdoc as code."""
    text = escaped(inspect.cleandoc(doc))
    text = re.sub(r"^(#+) ", r"#\1 ", text, flags=re.MULTILINE)
    return link(re.sub(r"\[(`[^`\]]+`)\](?:\([^)]*\))?", r"\1", text))


def link(words: str) -> str:
    """Papers and repositories with their addresses."""
    text = re.sub(r"arXiv:(\d{4}\.\d{4,5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", words)
    return re.sub(r"(?<![\w/])(github\.com/[\w./-]*\w)", r"[\1](https://\1)", text)


def one_line(text: str) -> str:
    """Text for a cell of a table."""
    return escaped(" ".join(text.split()))


def escaped(text: str) -> str:
    """Text outside code without what Markdown would take for HTML."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(p if p.startswith("`") else p.replace("<", "&lt;") for p in parts)


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A Markdown table."""
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(c.replace("|", "\\|") for c in row) + " |" for row in lines)

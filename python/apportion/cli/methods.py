"""`apportion methods`: the list of methods, or one method's page."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Iterable, Sequence

from apportion.errors import OptionError
from apportion.methods import MethodCard, methods

WIDTH = 100


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    cards = methods()
    if args.name is None:
        print(listing(cards.values()))
        return
    if args.name not in cards:
        raise OptionError(f"unknown method {args.name!r}, expected one of {', '.join(cards)}")
    print(page(cards[args.name]))


def listing(cards: Iterable[MethodCard]) -> str:
    """Each method in a row; below it its paper, and its options with defaults."""
    head = ("method", "granularity", "family", "certainty", "columns needed")
    cards = list(cards)
    rows = [
        (
            card.name,
            card.granularity,
            card.family,
            card.certainty,
            ", ".join(c.name for c in card.columns if c.required),
        )
        for card in cards
    ]
    first, *lines = _table([head, *rows])
    out = [first]
    for card, line in zip(cards, lines, strict=True):
        options = " ".join(f"{o.name}={shown(o.default)}" for o in card.options)
        out += [line, f"    {card.paper}", *_wrapped(options or "no options")]
    return "\n".join([*out, "", 'One method in full: "apportion methods NAME".'])


def _wrapped(text: str) -> list[str]:
    indent = "    "
    return textwrap.wrap(
        text, WIDTH, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False
    )


def page(card: MethodCard) -> str:
    """Everything there is to know of a method."""
    facts = [
        ("granularity", card.granularity),
        ("family", card.family),
        ("paper", card.paper),
        ("certainty", card.certainty),
        ("over groups", "yes, a file is read whole" if card.batch_wide else "no"),
    ]
    columns = [
        (c.name, c.level, "needed" if c.required else "optional", c.doc) for c in card.columns
    ]
    options = [(o.name, shown(o.default), o.expected) for o in card.options]
    parts = [
        f"{card.name}: {card.title}",
        "\n".join(_table(facts)),
        textwrap.dedent(card.doc).strip("\n"),
        "# Columns\n\n" + "\n".join(_table(columns)),
    ]
    if options:
        described = []
        for line, option in zip(_table(options), card.options, strict=True):
            described += [line, textwrap.indent(option.doc, "    ")]
        parts.append("# Options\n\n" + "\n".join(described))
    if card.presets:
        presets = [
            (name, " ".join(f"{k}={shown(v)}" for k, v in preset.items()) or "the defaults")
            for name, preset in card.presets.items()
        ]
        parts.append("# As trainers set it (like=...)\n\n" + "\n".join(_table(presets)))
    return "\n\n".join(parts)


def shown(value: object) -> str:
    """A value as `--set` takes it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as aligned lines."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))] if rows else []
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]

"""`apportion tree`: a file of trees in, a picture or another format out."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from apportion.cli.words import counted
from apportion.errors import OptionError
from apportion.trees import Trees, read_trees, write_trees
from apportion.trees.files import ENDINGS

PICTURES = (".html", ".svg", ".dot")


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    output = Path(args.output)
    if not output.name.endswith((*PICTURES, *ENDINGS)):
        expected = ", ".join((*PICTURES, *ENDINGS))
        raise OptionError(f"{output}: unknown ending, expected one of {expected}")
    if output.resolve() == Path(args.file).resolve():
        raise OptionError(f"{output}: is the input, expected another file for the output")
    trees = _logged(Path(args.file)) or read_trees(args.file, args.format)
    if args.tree is not None or output.suffix in (".svg", ".dot"):
        trees = trees.select([args.tree or 0])
    told = summary(trees)
    if output.suffix == ".html":
        name = Path(args.file).name
        trees.to_html(output, title=args.title or name, source=name if args.title else None)
    elif output.suffix == ".svg":
        trees.to_svg(output, max_nodes=args.max_nodes)
    elif output.suffix == ".dot":
        trees.to_dot(output, max_nodes=args.max_nodes)
    else:
        write_trees(output, trees)
    print(told, file=sys.stderr)
    print(f"wrote {output}", file=sys.stderr)


def _logged(folder: Path) -> Trees | None:
    """The trees of a log of `apportion search`, if that is what is there."""
    if not folder.is_dir():
        return None
    from apportion.cli.logged import logged_trees

    return logged_trees(folder)


def summary(trees: Trees) -> str:
    """Sizes in a line."""
    depth = int(trees.depth.max(initial=0))
    counts = [(len(trees), "tree"), (trees.num_nodes, "node")]
    if "visits" in trees.columns:
        roots = trees.columns["visits"][trees.offsets[:-1]]
        counts.append((int(np.sum(roots)), "visit"))
    facts = [counted(count, name) for count, name in counts]
    return ", ".join([*facts[:2], f"depth {depth}", *facts[2:]])

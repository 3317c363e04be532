"""`apportion tree`: a file of trees in, a picture or another format out."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

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
    trees = read_trees(args.file, args.format)
    told = summary(trees)
    if args.tree is not None:
        trees = trees.select([args.tree])
    if output.suffix == ".html":
        name = Path(args.file).name
        trees.to_html(output, title=args.title or name, source=name)
    elif output.suffix == ".svg":
        trees.to_svg(output, max_nodes=args.max_nodes)
    elif output.suffix == ".dot":
        trees.to_dot(output, max_nodes=args.max_nodes)
    else:
        write_trees(output, trees)
    print(told, file=sys.stderr)
    print(f"wrote {output}", file=sys.stderr)


def summary(trees: Trees) -> str:
    """Sizes in a line."""
    depth = int(trees.depth.max(initial=0))
    facts = [f"{len(trees):,} trees", f"{trees.num_nodes:,} nodes", f"depth {depth}"]
    if "visits" in trees.columns:
        roots = trees.columns["visits"][trees.offsets[:-1]]
        facts.append(f"{int(np.sum(roots)):,} visits")
    return ", ".join(facts)

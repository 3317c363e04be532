"""HTML of a report, or of another page of one file. Depends on the standard library alone.

Three things keep hostile text inert. It is only ever inside one JSON block, in
which `<`, `>` and `&` are escaped, so that no text can end the block. The scripts
in the folders `assets/` put text on the page as text nodes, never as markup. And the
content-security policy admits the page's own script and style by their hashes and
nothing else: no address is ever loaded.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

SCRIPTS = ("base.js", "overview.js", "list.js", "group.js", "start.js")
STYLES = ("report.css",)

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<meta name="generator" content="apportion {version}">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<noscript><p>This page draws itself with a script that it contains. Allow scripts for this
file to see it; nothing is loaded from elsewhere.</p></noscript>
<div id="app"></div>
<script type="application/json" id="data">{data}</script>
<script>{script}</script>
</body>
</html>
"""


def render(
    content: Mapping[str, Any],
    package: str = "apportion.report",
    scripts: Sequence[str] = SCRIPTS,
    styles: Sequence[str] = STYLES,
) -> bytes:
    """The page on which `scripts` of a package show `content`, dressed by its `styles`.

    `elements.js` and `theme.css` of this package come before them. `content` has at
    least a `title` and a `version`.
    """
    shared = "apportion.report"
    style = "\n".join([_asset(shared, "theme.css"), *(_asset(package, s) for s in styles)])
    parts = [_asset(shared, "elements.js"), *(_asset(package, s) for s in scripts)]
    script = '"use strict";\n(() => {\n' + "\n".join(parts) + "})();\n"
    policy = (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; "
        "base-uri 'none'; form-action 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    )
    page = _PAGE.format(
        policy=policy,
        version=html.escape(content["version"]),
        title=html.escape(_printable(content["title"])),
        style=style,
        data=embedded(content),
        script=script,
    )
    return page.encode("utf-8")


def embedded(content: Mapping[str, Any]) -> str:
    """`content` as JSON that is inert inside an HTML script element.

    Escaped are also control characters and line separators, which HTML parsers may
    change. Halves of surrogate pairs, which no text may hold, become U+FFFD.
    """
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    text = _SURROGATES.sub("\ufffd", text)
    return _UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


_SURROGATES = re.compile("[\ud800-\udfff]")
_UNSAFE = re.compile("[<>&\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")


def _printable(text: str) -> str:
    return re.sub("[\x00-\x1f\x7f-\x9f\ud800-\udfff]", "\ufffd", text)


def _asset(package: str, name: str) -> str:
    return (resources.files(package) / "assets" / name).read_text("utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def replace_file(path: str | os.PathLike[str], content: bytes) -> None:
    """Puts `content` at `path` in one step: whoever reads sees the old file or the new one."""
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        error.filename, error.filename2 = str(target), None  # the name that the caller knows
        raise
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise

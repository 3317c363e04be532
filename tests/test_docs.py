"""Every code block of README and docs runs, and the pages made from the cards are whole.

A block that imports torch, transformers, trl, verl or the client of OpenAI's API runs where
that is installed (verl: `make test-verl`), the last against a server on localhost. Names
that the pages leave to the reader (`model`, `tokenizer`, `dataset`, `config`, `reward`,
`url`) are a tiny random model and a toy task.
"""

from __future__ import annotations

import contextlib
import importlib.util
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

import apportion
from docs_blocks import Block, pages, run

ROOT = Path(__file__).parents[1]
PAGES = pages(ROOT)
SAMPLE = Path(apportion.__file__).parent / "data" / "rollouts.jsonl"


def jobs() -> list[tuple[str, str | None]]:
    """Every page with what its blocks need: once bare, and once more for each trainer."""
    found = []
    for page, listed in PAGES.items():
        if listed:
            found += [(page, None), *((page, need) for need in {b.needs for b in listed} - {None})]
    return found


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("page", "need"), jobs(), ids=lambda value: value if isinstance(value, str) else "plain"
)
def test_blocks(
    page: str, need: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if need is not None and not is_installed(need):
        pytest.skip(f"needs {need}")
    monkeypatch.chdir(tmp_path)
    shutil.copy(SAMPLE, tmp_path / "rollouts.jsonl")
    names: dict[str, Any] = {"__name__": "__main__"}
    with contextlib.ExitStack() as stack:
        if need == "trl":
            names |= trl_names(tmp_path)
        if need == "transformers":
            import tiny_model

            names |= {"model": tiny_model.model(), "tokenizer": tiny_model.tokenizer()}
        if need == "openai":
            from completions_server import Server

            names["url"] = stack.enter_context(Server()).url
        for block in PAGES[page]:
            if block.needs in (None, need):
                run(block, names, page)


def is_installed(package: str) -> bool:
    """Whether it is there; a folder of its name, as `tests/verl`, is not it."""
    spec = importlib.util.find_spec({"openai": "httpx"}.get(package, package))
    return spec is not None and spec.origin is not None


def trl_names(folder: Path) -> dict[str, Any]:
    """What a reader of the pages about TRL brings along."""
    import trl
    from datasets import Dataset

    from integrations.trl_runs import model, tokenizer

    def reward(completions: list[str], **kwargs: Any) -> list[float]:
        return [float(sum(c.isdigit() for c in text)) for text in completions]

    saved = str(folder / "model")
    model().save_pretrained(saved)
    tokenizer().save_pretrained(saved)
    config = trl.GRPOConfig(
        output_dir=str(folder / "out"),
        per_device_train_batch_size=8,
        num_generations=4,
        max_completion_length=8,
        max_steps=1,
        use_cpu=True,
        bf16=False,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        gradient_checkpointing=False,
    )
    dataset = Dataset.from_dict({"prompt": [f"{i} + {i} = " for i in range(8)]})
    return {
        "model": saved,
        "tokenizer": tokenizer(),
        "config": config,
        "dataset": dataset,
        "reward": reward,
    }


def test_there_are_blocks() -> None:
    languages = {block.language for listed in PAGES.values() for block in listed}
    assert "python" in languages and "console" in languages
    unnamed = [f"{p}:{b.line}" for p, listed in PAGES.items() for b in listed if not b.language]
    assert not unnamed, "a block without a language is neither run nor known to be prose"
    not_run = [b for listed in PAGES.values() for b in listed if is_python_in_disguise(b)]
    assert not not_run


def is_python_in_disguise(block: Block) -> bool:
    return block.language in ("py", "python3", "pycon", "sh", "bash", "shell")


@pytest.fixture
def hooks() -> Any:
    spec = importlib.util.spec_from_file_location("docs_hooks", ROOT / "docs" / "hooks.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["docs_hooks"] = module
    spec.loader.exec_module(module)
    return module


def test_generated_pages(hooks: Any) -> None:
    made = dict(hooks.pages())
    listing = made["methods/index.md"]
    for name, card in apportion.methods().items():
        page = made[f"methods/{name}.md"]
        assert f"[`{name}`]({name}.md)" in listing
        assert "## Formula" in page and "## Options" in page and "## Columns" in page
        for part in (*card.options, *card.columns):
            assert f"`{part.name}`" in page
        for trainer in card.presets:
            assert f'like="{trainer}"' in page
        assert not re.search(r"\[`[^`\]]+`\](?!\()", page), "a link of rustdoc was left"
        rows = [line for line in page.splitlines() if line.startswith("| ")]
        assert all(len(re.findall(r"(?<!\\)\|", row)) >= 3 for row in rows)
    for name in apportion.columns():
        assert f"`{name}`" in made["columns.md"]
    for name, page in made.items():
        assert "<" not in re.sub(r"`[^`]*`", "", page), f"{name}: taken for HTML"

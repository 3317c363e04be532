"""Every kernel compiled for Hopper without a GPU: no spills, wide loads."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("triton", minversion="3.4")

from apportion.kernels import aot

FORMS = [form for form in aot.shipped() if "fp16" not in form.name]
"""Half precision has the code of bfloat16; `python -m apportion.kernels.aot` compiles both."""

pytestmark = pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION")


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_compiled_for_hopper(form: Any) -> None:
    assert aot.compiled(form).faults == ()


def test_faults_are_found(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    stats = next(form for form in FORMS if form.wide_loads)
    forms = [
        replace(stats, name="unaligned", aligned=frozenset()),
        replace(stats, name="crowded", constants={**stats.constants, "BLOCK": 2**16}),
        replace(stats, name="scalar", tensor_cores=True),
        stats,
    ]
    monkeypatch.setattr(aot, "shipped", lambda: forms)
    assert aot.main() == 1
    unaligned, crowded, scalar, good = capsys.readouterr().out.splitlines()[2:]
    assert unaligned.endswith("has no 128-bit load")
    assert "spills" in crowded
    assert scalar.endswith("has no matrix instruction")
    assert good.split()[-1].isdigit()

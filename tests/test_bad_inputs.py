"""Every wrong input of the catalogue raises the error that names it."""

from __future__ import annotations

import pytest

import apportion as ap
from bad import Bad, catalogue

CASES = catalogue()


@pytest.mark.parametrize("bad", CASES, ids=[bad.what for bad in CASES])
def test_named(bad: Bad) -> None:
    with pytest.raises(bad.error) as caught:
        bad.call()
    message = str(caught.value)
    assert isinstance(caught.value, ap.ApportionError)
    missing = [part for part in bad.says if part not in message]
    assert not missing, f"{message!r} says nothing of {missing}"


def test_the_catalogue_is_long_and_its_names_are_its_own() -> None:
    assert len(CASES) >= 80

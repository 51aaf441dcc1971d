"""The word in the recipe is the file name, or the name of a user's own class."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from limbeck.errors import UsageError
from limbeck.losses import Loss
from limbeck.recipe.component import build_component, component_class, component_names

FAMILIES = {
    "limbeck.data.sources": "source",
    "limbeck.teachers": "backend",
    "limbeck.losses": "kind",
    "limbeck.metrics": "kind",
}

OWN = '''
from limbeck.losses import Loss
from limbeck.metrics import Metric

class Mine(Loss):
    """A loss of the user's."""
    kind: str
    strength: float = 2.0

class Fixed(Loss):
    """Has no field for the name it is called by."""

class Measure(Metric):
    """Of another family."""
    kind: str
'''


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "own_limbeck_parts.py").write_text(OWN)
    (tmp_path / "broken_limbeck_parts.py").write_text("def (")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "own_limbeck_parts", raising=False)
    return "own_limbeck_parts"


@pytest.mark.parametrize("package", FAMILIES)
def test_every_word_finds_the_class_in_its_file(package: str):
    names = component_names(package)
    assert names
    for name in names:
        cls = component_class(package, name)
        assert cls.__module__ == f"{package}.{name}"
        assert cls.model_fields[FAMILIES[package]].default == name
        assert cls.__doc__


def test_a_users_own_class_is_found_by_module_and_class(own_module: str):
    word = f"{own_module}:Mine"
    built = build_component("limbeck.losses", "kind", {"kind": word, "strength": 3})
    assert isinstance(built, Loss)
    dumped = built.model_dump(mode="json")
    assert dumped["kind"] == word
    assert build_component("limbeck.losses", "kind", dumped) == built


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("{own}:Nothing", "cannot import"),
        ("{own}:Measure", "is no subclass of limbeck.losses.Loss"),
        ("{own}:Fixed", "must declare the field `kind: str`"),
        ("{own}:Loss", "must declare the field `kind: str`"),
        ("nowhere_at_all:Mine", "cannot import"),
        ("broken_limbeck_parts:Mine", "cannot import"),
        ("os:system", "is no subclass of"),
        (":Mine", "is not of the form package.module:Class"),
        ("a b:Mine", "is not of the form package.module:Class"),
        (".relative:Mine", "is not of the form package.module:Class"),
        ("a:b:c", "is not of the form package.module:Class"),
        ("Divergence", "did you mean 'divergence'?"),
        ("__init__", "is not known"),
        ("functional", "is not known"),
        ("", "is not known"),
        ("../metrics/bleu", "is not known"),
    ],
)
def test_a_word_that_names_no_component_is_refused(own_module: str, word: str, expected: str):
    with pytest.raises(UsageError) as caught:
        build_component("limbeck.losses", "kind", {"kind": word.format(own=own_module)})
    assert expected in str(caught.value)

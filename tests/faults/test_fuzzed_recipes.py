"""Whatever a recipe file holds, loading it gives a recipe or one of our errors (RELIABILITY 8)."""

from __future__ import annotations

import copy
import random
from pathlib import Path
from typing import Any

import pytest
import yaml

from limbeck.errors import LimbeckError
from limbeck.recipe import arms_of, load_recipe, recipe_from
from limbeck.recipe.loading import apply_override
from limbeck.recipe.yaml_text import parse_yaml

TEXT = """\
name: small
seeds: [0, 1]
data: {source: screens, train: 8}
teacher:
  backend: transformers
  build: {family: qwen2_vl, layers: 2}
  fine_tune: {training: {steps: 2}, limit: 4}
student:
  build: {family: qwen2_vl, tokenizer: word}
  adapter: {kind: lora, targets: [q_proj], parts: [language_model]}
label: {temperatures: [1, 2], checks: {pattern: ".*"}}
losses:
  - cross_entropy
  - {kind: divergence, direction: jsd, beta: 0.5, temperature: 2.0}
training: {steps: 4, learning_rate: 1e-4, betas: [0.9, 0.99]}
evaluate: {metrics: [rouge_l, {kind: bleu}], models: [teacher, student, wide]}
arms: {wide: {losses.1.weight: 2}}
"""
VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 2**63, 10**400, 0.5, -0.0, 1e308, float("inf"), float("nan")),
    *("", " ", "x", "screens", "a:b", "os:system", "../x", "\0", "\ud800", "é" * 300, "1e-4", "-"),
    *([], {}, [[]], [None], {"": ""}, {"kind": None}, {1: 2}, {None: []}, b"x", object(), {1, 2}),
    *([1] * 1000, {"a": {"b": {"c": [{}]}}}, {"kind": "divergence", "temperature": []}),
]
PIECES = [
    *"{}[]:,#&*!|>'\"%@`-?~<=\n\t \\\0\x07é\U0001f600\ufeff\u2028",
    *("<<: ", "- ", "? ", "!!int ", "!!bool ", "!!python/name:os.system ", "&a ", "*a", "---\n"),
    *("...\n", "%YAML 9.9\n", "null", "true", ".inf", "1e999", "0x1F", "0o17", "1_0", "12:30"),
    *("[" * 500, "{" * 500, "9" * 5000, "\\ud800", "2024-01-01", "kind", "training"),
]


def one_line(error: LimbeckError) -> None:
    assert str(error)
    assert "\n" not in str(error)


def attempt(values: Any) -> bool:
    """Whether the values make a recipe with arms; any error but ours escapes."""
    try:
        arms_of(recipe_from(values))
    except LimbeckError as error:
        one_line(error)
        return False
    return True


def mutated_tree(values: dict[str, Any], random_: random.Random) -> Any:
    """The recipe with up to three of its values replaced, removed, renamed or moved."""
    root: dict[str, Any] = {"": copy.deepcopy(values)}
    for _ in range(random_.randint(1, 3)):
        places = list(_places(root))
        holder, key = random_.choice(places)
        action = random_.randrange(5)
        if action == 0 and holder is not root:
            del holder[key]
        elif action == 1 and isinstance(holder, dict) and holder is not root:
            holder[random_.choice([1, None, "", f"{key}s", "kind", "a.b"])] = holder.pop(key)
        elif action == 2:
            other, place = random_.choice(places)
            holder[key] = copy.deepcopy(other[place])
        else:
            holder[key] = copy.deepcopy(random_.choice(VALUES))
    return root[""]


def _places(node: Any):
    items = node.items() if isinstance(node, dict) else enumerate(node)
    for key, value in items:
        yield node, key
        if isinstance(value, (dict, list)):
            yield from _places(value)


def mutated_text(text: str, random_: random.Random) -> str:
    """The text with up to four places cut, doubled, overwritten or with something put in."""
    for _ in range(random_.randint(1, 4)):
        start = random_.randrange(len(text) + 1)
        end = min(len(text), start + random_.choice([0, 0, 1, 1, 5, 40]))
        middle = random_.choice(["", random_.choice(PIECES), text[start:end] * 2])
        text = text[:start] + middle + text[end:]
    return text


def check_trees(count: int, seed: int) -> None:
    random_ = random.Random(seed)
    values = yaml.safe_load(TEXT)
    outcomes = [attempt(mutated_tree(values, random_)) for _ in range(count)]
    assert 0.01 < sum(outcomes) / count < 0.9, "the mutations do not probe the border"


def check_texts(count: int, seed: int) -> None:
    random_ = random.Random(seed)
    valid = 0
    for _ in range(count):
        try:
            values, _ = parse_yaml(mutated_text(TEXT, random_), "r.yaml")
        except LimbeckError as error:
            one_line(error)
            continue
        valid += attempt(values)
    assert 0.01 < valid / count < 0.9, "the mutations do not probe the border"


def test_the_unchanged_recipe_is_valid():
    assert attempt(yaml.safe_load(TEXT))


def test_mutated_values_only_raise_our_errors():
    check_trees(8_000, seed=1)


def test_mutated_text_only_raises_our_errors():
    check_texts(2_000, seed=2)


@pytest.mark.slow
def test_many_mutations_only_raise_our_errors():
    check_trees(80_000, seed=3)
    check_texts(20_000, seed=4)


def test_random_bytes_only_raise_our_errors(tmp_path: Path):
    random_ = random.Random(5)
    path = tmp_path / "r.yaml"
    for _ in range(200):
        path.write_bytes(random_.randbytes(random_.randrange(200)))
        with pytest.raises(LimbeckError):
            load_recipe(path)


def test_mutated_overrides_only_raise_our_errors():
    random_ = random.Random(6)
    paths = ["training.steps", "losses.1.weight", "losses.1", "arms.wide", "data", "seeds.0", "x.y"]
    for _ in range(500):
        values = yaml.safe_load(TEXT)
        override = mutated_text(f"{random_.choice(paths)}=3", random_)
        try:
            apply_override(values, override)
        except LimbeckError as error:
            one_line(error)
            continue
        attempt(values)

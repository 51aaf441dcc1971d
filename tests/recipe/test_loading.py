"""A recipe file becomes one typed value, or one line that says what, where and the mend."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from limbeck.errors import UsageError
from limbeck.losses.divergence import Divergence
from limbeck.recipe import Recipe, load_recipe, recipe_from

TEXT = """\
name: small
data:
  source: screens
  train: 8
teacher:
  backend: transformers
  build: {family: qwen2_vl, layers: 2}
student:
  build: {family: qwen2_vl}
  adapter: {rank: 4}
label:
  temperatures: [1, 2]
losses:
  - cross_entropy
  - kind: divergence
    temperature: 2.0
training:
  steps: 4
  learning_rate: 1e-4
"""


def load(tmp_path: Path, text: str, *overrides: str) -> Recipe:
    path = tmp_path / "r.yaml"
    path.write_text(text, encoding="utf-8")
    return load_recipe(path, overrides)


def refusal(tmp_path: Path, text: str, *overrides: str) -> str:
    """The one line about a recipe that is refused, its folder left out."""
    with pytest.raises(UsageError) as caught:
        load(tmp_path, text, *overrides)
    line = str(caught.value).replace(f"{tmp_path}/", "")
    assert "\n" not in line
    assert len(line) < 500
    return line


def test_a_recipe_becomes_typed_components(tmp_path: Path):
    recipe = load(tmp_path, TEXT)
    assert recipe.training.learning_rate == 1e-4
    assert recipe.training.epochs is None
    assert recipe.training.samples_per_step == 16
    assert isinstance(recipe.losses[1], Divergence)
    assert recipe.losses[1].temperature == 2.0
    assert recipe.student.adapter is not None
    assert recipe.student.adapter.rank == 4


def test_dump_and_load_gives_an_equal_recipe(tmp_path: Path):
    recipe = load(tmp_path, TEXT)
    again = recipe_from(recipe.model_dump(mode="json"))
    assert again == recipe
    assert again.model_dump(mode="json") == recipe.model_dump(mode="json")


def test_a_recipe_cannot_be_changed(tmp_path: Path):
    recipe = load(tmp_path, TEXT)
    with pytest.raises(ValueError, match="frozen"):
        recipe.name = "other"


def test_training_lasts_three_epochs_of_sixteen_samples_a_step_by_default(tmp_path: Path):
    recipe = load(tmp_path, TEXT.replace("  steps: 4\n", ""))
    assert (recipe.training.epochs, recipe.training.samples_per_step) == (3, 16)


UNKNOWN_KEYS = {
    "nmae: x": ("r.yaml:{line}: nmae: unknown key 'nmae'; did you mean 'name'?", "top"),
    "  lerning_rate: 1": (
        "r.yaml:{line}: training.lerning_rate: unknown key 'lerning_rate'; "
        "did you mean 'learning_rate'?",
        "training",
    ),
}


@pytest.mark.parametrize("added", UNKNOWN_KEYS)
def test_an_unknown_key_names_file_line_path_and_the_nearest_key(tmp_path: Path, added: str):
    expected, _ = UNKNOWN_KEYS[added]
    text = TEXT + added + "\n"
    assert refusal(tmp_path, text) == expected.format(line=len(text.splitlines()))


def test_an_unknown_key_inside_a_component_of_a_list_names_its_line(tmp_path: Path):
    text = TEXT.replace("    temperature: 2.0", "    temprature: 2.0")
    line = refusal(tmp_path, text)
    assert line.startswith("r.yaml:16: losses.1.temprature: unknown key 'temprature'")
    assert "did you mean 'temperature'?" in line


def test_a_misspelt_required_key_is_called_unknown_and_not_missing(tmp_path: Path):
    line = refusal(tmp_path, TEXT.replace("teacher:", "teachr:"))
    assert "unknown key 'teachr'; did you mean 'teacher'?" in line


def test_a_key_like_no_other_lists_the_known_ones(tmp_path: Path):
    line = refusal(tmp_path, TEXT.replace("adapter: {rank: 4}", "adapter: {zzz: 4}"))
    assert "r.yaml:10: student.adapter.zzz" in line
    assert "known keys: alpha, dropout, kind, parts, rank, targets" in line


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("source: screens", "source: screns", "data.source: 'screns' is not known; did you mean"),
        ("backend: transformers", "backend: oracle", "teacher.backend: 'oracle' is not known"),
        ("- cross_entropy", "- cros_entropy", "losses.0.kind: 'cros_entropy' is not known; did"),
        ("- cross_entropy", "- weight: 1", "losses.0: needs the key 'kind'; choose one of atten"),
        ("- cross_entropy", "- 7", "losses.0: needs the key 'kind'"),
        ("source: screens", "source: [screens]", "data: needs the key 'source'"),
        ("  steps: 4", "  steps: many", "training.steps: must be a valid integer"),
        ("  steps: 4", "  steps: 4.5", "training.steps: must be a valid integer"),
        ("  steps: 4", "  steps: 0", "training.steps: must be greater than 0 (got '0')"),
        ("  steps: 4", "  steps: true", "training.steps: must be a number, not a boolean"),
        ("[1, 2]", "[1, true]", "label.temperatures: must be a number, not a boolean"),
        ("  steps: 4", "  steps: [4]", "training.steps: must be a valid integer"),
        ("1e-4", ".nan", "training.learning_rate: must be"),
        ("1e-4", ".inf", "training.learning_rate: must be a finite number"),
        ("1e-4", "1e999", "training.learning_rate: must be a finite number"),
        ("  steps: 4", "  schedule: cosin", "training.schedule: must be 'cosine', 'linear' or"),
        ("[1, 2]", "1", "label.temperatures: must be a list (got '1')"),
        ("{rank: 4}", "rank", "student.adapter: must be a mapping (got 'rank')"),
        ("name: small", "name: 7", "name: must be text (in quotes"),
        ("name: small", "name: ../up", "name: must match ^["),
        ("name: small", "work: here", "name: is missing"),
        ("{rank: 4}", "{targets: 3}", "student.adapter.targets: must be a list or must be 'all_l"),
        ("  steps: 4", "  steps: 4\n  epochs: 1", "training: steps and epochs exclude one another"),
        ("{family: qwen2_vl}", "{family: qwen2_vl}\n  model: a/b", "student: needs exactly one of"),
        ("{rank: 4}", "{rank: 4}\n  trust_remote_code: true", "student: trust_remote_code needs"),
        ("label:", "label:\n  checks: {pattern: '('}", "label.checks.pattern: not a regular expr"),
        ("losses:", "seeds: [1, 1]\nlosses:", "seeds.1: 1 is listed twice"),
        ("losses:", "seeds: [-1]\nlosses:", "seeds.0: must be greater than or equal to 0"),
        ("losses:", "seeds: []\nlosses:", "seeds: must have at least 1 item(s), not 0"),
    ],
)
def test_a_wrong_value_names_its_path(tmp_path: Path, old: str, new: str, expected: str):
    assert old in TEXT
    line = refusal(tmp_path, TEXT.replace(old, new))
    assert expected in line
    assert line.startswith("r.yaml")


def test_booleans_are_true_and_false_only(tmp_path: Path):
    def checkpointing(word: str) -> bool:
        text = TEXT.replace("  steps: 4", f"  steps: 4\n  gradient_checkpointing: {word}")
        return load(tmp_path, text).training.gradient_checkpointing

    assert checkpointing("true") is True
    assert checkpointing("false") is False
    named = load(tmp_path, TEXT.replace("name: small", "name: no"))
    assert named.name == "no"
    assert load(tmp_path, TEXT.replace("name: small", "name: 2024-01-01")).name == "2024-01-01"


@pytest.mark.parametrize("word", ["1e-4", "1.0e-4", "1E-4", ".0001", "0.0001", '"1e-4"'])
def test_every_spelling_of_a_number_is_a_number(tmp_path: Path, word: str):
    assert load(tmp_path, TEXT.replace("1e-4", word)).training.learning_rate == 1e-4


def test_a_key_given_twice_is_refused_with_its_line(tmp_path: Path):
    line = refusal(tmp_path, TEXT + "  steps: 5\n")
    assert line == "r.yaml:20: key 'training.steps' is given twice; keep one"
    assert "key 'name' is given twice" in refusal(tmp_path, TEXT + "name: again\n")


def test_a_key_that_is_not_text_is_refused(tmp_path: Path):
    for key in ("1", "true", "null", "[a]", "{a: b}", "1.5"):
        assert "is not text; put it in quotes" in refusal(tmp_path, f"{TEXT}{key}: x\n"), key
    assert "unknown key 'on'" in refusal(tmp_path, TEXT + "on: x\n")


@pytest.mark.parametrize(
    "text",
    [
        "name: [",
        "name: 'x",
        "\tname: x",
        "a: b: c",
        "- just\n- a list",
        "text",
        "",
        "--- {a: 1}\n--- {b: 2}",
        "name: !!python/object/apply:os.system ['true']",
        "name: !!binary aGk=",
        "name: !!timestamp 2001-01-01",
        "name: !!int x",
        "name: !!bool x",
        "name: !!float ''",
        "name: !!int ''",
        "name: !local x",
        "name: &a [*a]",
        "name: *nowhere",
        'name: "\\ud800"',
        'name: "a\\0b"',
        "name: " + "[" * 3000 + "]" * 3000,
        "name: " + "[" * 60 + "]" * 60,
        "name: " + "9" * 6000,
        "name: " + "x" * 2_000_000,
    ],
)
def test_text_that_is_no_recipe_is_refused_in_one_line(tmp_path: Path, text: str):
    assert refusal(tmp_path, text).startswith("r.yaml")


def test_aliases_that_grow_without_bound_are_refused_before_they_are_written_out(tmp_path: Path):
    levels = [f"    a{n + 1}: &a{n + 1} [{f'*a{n}, ' * 9}]" for n in range(9)]
    bomb = "\n".join([TEXT + "arms:\n  x:\n    a0: &a0 [x]", *levels])
    assert "too many values, or nested too deeply" in refusal(tmp_path, bomb)
    merges = [f"    a{n + 1}: &a{n + 1} {{<<: [{f'*a{n}, ' * 9}]}}" for n in range(9)]
    bomb = "\n".join([TEXT + "arms:\n  x:\n    a0: &a0 {k: v}", *merges])
    assert "too many values, or nested too deeply" in refusal(tmp_path, bomb)
    assert "contains itself" in refusal(tmp_path, TEXT + "arms: &a {x: *a}\n")


def test_anchors_and_merges_within_reason_are_read(tmp_path: Path):
    text = TEXT.replace("teacher:\n", "teacher: &t\n").replace(
        "student:\n", "student:\n  max_pixels: &pixels 4096\n  min_pixels: *pixels\n"
    )
    assert load(tmp_path, text).student.min_pixels == 4096
    merged = TEXT.replace("build: {family: qwen2_vl, layers: 2}", "build: &b {family: qwen2_vl}")
    merged = merged.replace("  build: {family: qwen2_vl}\n", "  build: {<<: *b, layers: 3}\n")
    recipe = load(tmp_path, merged)
    assert recipe.student.build is not None
    assert (recipe.student.build.family, recipe.student.build.layers) == ("qwen2_vl", 3)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path):
    with pytest.raises(UsageError, match=r"nowhere\.yaml: cannot read the recipe .*limbeck new"):
        load_recipe(tmp_path / "nowhere.yaml")
    with pytest.raises(UsageError, match="cannot read the recipe"):
        load_recipe(tmp_path)
    with pytest.raises(UsageError, match="not a file name"):
        load_recipe("a\0b")
    latin = tmp_path / "latin.yaml"
    latin.write_bytes("name: é".encode("latin-1"))
    with pytest.raises(UsageError, match="not UTF-8"):
        load_recipe(latin)


def test_a_byte_order_mark_is_no_obstacle(tmp_path: Path):
    path = tmp_path / "bom.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + TEXT.encode())
    assert load_recipe(path).name == "small"


def test_metrics_are_words_or_mappings(tmp_path: Path):
    text = TEXT + textwrap.dedent(
        """\
        evaluate:
          metrics:
            - rouge_l
            - {kind: bleu}
        """
    )
    kinds = [metric.model_dump()["kind"] for metric in load(tmp_path, text).evaluate.metrics]
    assert kinds == ["rouge_l", "bleu"]


def test_what_nothing_would_read_is_refused(tmp_path: Path):
    arms = "arms:\n  wide: {losses.0.weight: 2}\n"
    assert "arms.wide: nothing evaluates this arm" in refusal(tmp_path, TEXT + arms)
    listed = arms + "evaluate: {models: [student, wide]}\n"
    assert "wide" in load(tmp_path, TEXT + listed).arms
    unlisted = TEXT + "benchmark: {models: [student]}\nevaluate: {models: [control]}\n"
    assert "benchmark.models.0: 'student' is not among what is evaluated" in refusal(
        tmp_path, unlisted
    )


@pytest.mark.parametrize("name", ["teacher", "baseline", "student", "control"])
def test_an_arm_cannot_take_the_name_of_a_built_in_one(tmp_path: Path, name: str):
    text = f"{TEXT}arms:\n  {name}: {{losses.0.weight: 2}}\n"
    assert "every recipe has this arm" in refusal(tmp_path, text)


def test_an_arm_name_cannot_leave_its_folder(tmp_path: Path):
    text = TEXT + "arms:\n  ../../x: {losses.0.weight: 2}\n"
    assert "arms" in refusal(tmp_path, text)


def test_models_that_are_no_arm_are_refused(tmp_path: Path):
    line = refusal(tmp_path, TEXT + "evaluate:\n  models: [student, teecher]\n")
    assert line.startswith("r.yaml:21: evaluate.models.1: 'teecher' is not among the known arms")
    assert "twice" in refusal(tmp_path, TEXT + "evaluate:\n  models: [student, student]\n")

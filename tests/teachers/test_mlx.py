"""Backend mlx: the same answers and log-probabilities as transformers gives, from another process.

The slow tests run mlx-vlm for real. It needs an environment of its own, which is found through
LIMBECK_MLX_PYTHON:

    python -m venv mlx-environment && mlx-environment/bin/pip install mlx-vlm 'mlx[cpu]'
    LIMBECK_MLX_PYTHON=$PWD/mlx-environment/bin/python make test-all

('mlx[cpu]' on Linux; on Apple silicon mlx-vlm alone brings what it needs.)
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from mixed_samples import with_several_pictures_and_none

from limbeck.data.samples import read_samples
from limbeck.errors import TeacherError
from limbeck.records import Sample
from limbeck.teachers import Decoding, Request
from limbeck.teachers.mlx import Mlx
from limbeck.teachers.mlx_folder import flattened, readable_folder
from limbeck.teachers.transformers import Transformers

PYTHON = os.environ.get("LIMBECK_MLX_PYTHON", "")
real = pytest.mark.skipif(
    not PYTHON, reason="LIMBECK_MLX_PYTHON names no Python that has mlx-vlm (see tests/teachers)"
)


@pytest.fixture(scope="module")
def samples(screens: Path) -> list[Sample]:
    return read_samples(screens, "train", 8)


def test_a_folder_of_transformers_5_is_read_through_links(tiny_model: Path) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in tiny_model.iterdir()}
    folder, derived = readable_folder(tiny_model)
    assert derived is not None
    assert folder != tiny_model
    config = json.loads((folder / "config.json").read_text())
    own = json.loads((tiny_model / "config.json").read_text())
    for name in ("hidden_size", "num_hidden_layers", "vocab_size", "rms_norm_eps"):
        assert config[name] == own["text_config"][name]
    sections = own["text_config"]["rope_parameters"]["mrope_section"]
    assert config["rope_theta"] == own["text_config"]["rope_parameters"]["rope_theta"]
    assert config["rope_scaling"]["mrope_section"] == sections
    assert config["rope_scaling"]["type"] == "default"
    assert config["model_type"] == config["vision_config"]["model_type"] == "qwen2_vl"
    assert (folder / "model.safetensors").samefile(tiny_model / "model.safetensors")
    assert {path.name: path.stat().st_mtime_ns for path in tiny_model.iterdir()} == before
    derived.cleanup()
    assert not folder.exists()
    assert (tiny_model / "model.safetensors").is_file()


def test_a_folder_that_mlx_reads_is_taken_as_it_is(tmp_path: Path) -> None:
    config = {
        "model_type": "qwen2_vl",
        "hidden_size": 8,
        "rope_theta": 1e6,
        "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]},
        "vision_config": {"model_type": "qwen2_vl"},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert readable_folder(tmp_path) == (tmp_path, None)


def test_families_with_parts_keep_them_and_default_rope_needs_no_scaling() -> None:
    text = {"hidden_size": 8, "rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}}
    config = flattened({"model_type": "llava", "text_config": text})
    assert config["text_config"] == {"hidden_size": 8, "rope_theta": 5e5}
    assert "hidden_size" not in config
    scaled = {"rope_theta": 1e4, "rope_type": "linear", "factor": 2.0}
    config = flattened({"model_type": "llava", "text_config": {"rope_parameters": scaled}})
    assert config["text_config"]["rope_scaling"]["factor"] == 2.0
    assert config["text_config"]["rope_scaling"]["type"] == "linear"
    by_layer = {"full_attention": {"rope_theta": 1e6}, "sliding_attention": {"rope_theta": 1e4}}
    config = {"model_type": "gemma3", "text_config": {"rope_parameters": by_layer}}
    assert flattened(config) == config


def test_identity_is_of_what_it_sees_and_not_of_where_it_runs(tiny_model: Path) -> None:
    teacher = Mlx(model=str(tiny_model))
    elsewhere = Mlx(model=str(tiny_model), python="/other/python", timeout_seconds=5)
    smaller = Mlx(model=str(tiny_model), max_pixels=5000)
    assert teacher.identity() == elsewhere.identity()
    assert teacher.identity() != smaller.identity()
    assert teacher.identity() != Transformers(model=str(tiny_model)).identity()
    assert teacher.capabilities() == {"score", "whole_distributions"}


def test_a_python_without_mlx_is_named_with_the_mend(tiny_model: Path, screens: Path) -> None:
    try:
        import mlx_vlm  # noqa: F401  # pyright: ignore
    except ImportError:
        pass
    else:
        pytest.skip("mlx-vlm is installed beside the tests")
    with pytest.raises(TeacherError, match="cannot run mlx-vlm") as caught:
        Mlx(model=str(tiny_model), python=sys.executable).open(screens, device="cpu")
    assert caught.value.where == "teacher.python"
    assert "environment of its own" in str(caught.value.mend)


@real
@pytest.mark.slow
def test_greedy_answers_and_log_probabilities_are_those_of_transformers(
    varied_model: Path, screens: Path, samples: list[Sample]
) -> None:
    ours = Mlx(model=str(varied_model), python=PYTHON).open(screens, device="cpu")
    theirs = Transformers(model=str(varied_model)).open(screens, device="cpu")
    try:
        samples = [*samples, *with_several_pictures_and_none(samples)]
        texts = theirs.generate(samples, Decoding(40))
        assert ours.generate(samples, Decoding(40)) == texts
        assert len({answer.text for answer in texts}) > len(samples) // 2
        for answers in ([s.references[0] for s in samples], [a.text for a in texts]):
            pairs = zip(ours.score(samples, answers), theirs.score(samples, answers), strict=True)
            for mine, other in pairs:
                assert mine.answer_ids == other.answer_ids
                difference = mine.logits_NV.log_softmax(-1) - other.logits_NV.log_softmax(-1)
                assert difference.abs().max() < 1e-4
        assert "mlx" in ours.describe_memory()
    finally:
        ours.close()


@real
@pytest.mark.slow
def test_sampled_answers_differ_by_number_and_not_by_batch(
    varied_model: Path, screens: Path, samples: list[Sample]
) -> None:
    session = Mlx(model=str(varied_model), python=PYTHON).open(screens, device="cpu")
    try:
        how = Decoding(12, temperature=1.0, seed=3)
        asked = [Request(sample, number) for sample in samples[:2] for number in range(3)]
        (together,) = [answers for _, answers in session.stream([asked], how)]
        apart = [next(iter(session.stream([[one]], how)))[1][0] for one in asked]
        assert together == apart
        assert len({answer.text for answer in together}) == len(asked)
        blank = session.generate(samples, Decoding(12, blank_images=True))
        assert blank != session.generate(samples, Decoding(12))
    finally:
        session.close()


@real
@pytest.mark.slow
@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_other_families_give_the_same_too(
    family: str, screens: Path, samples: list[Sample], tmp_path: Path
) -> None:
    from limbeck.models.build import build_model
    from tiny_models import tiny_build

    texts = [
        text
        for sample in read_samples(screens)
        for text in (sample.messages[0]["content"][-1]["text"], *sample.references)
    ]
    build_model(tiny_build(family=family, hidden_size=128), texts, 0, tmp_path / "model")
    ours = Mlx(model=str(tmp_path / "model"), python=PYTHON).open(screens, device="cpu")
    theirs = Transformers(model=str(tmp_path / "model")).open(screens, device="cpu")
    try:
        answers = [sample.references[0] for sample in samples]
        pairs = zip(ours.score(samples, answers), theirs.score(samples, answers), strict=True)
        for mine, other in pairs:
            difference = mine.logits_NV.log_softmax(-1) - other.logits_NV.log_softmax(-1)
            assert difference.abs().max() < 1e-4
        assert ours.generate(samples[:3], Decoding(12)) == theirs.generate(
            samples[:3], Decoding(12)
        )
    finally:
        ours.close()

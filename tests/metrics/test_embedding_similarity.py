"""Similarity of sentence embeddings, with a small encoder of the real class."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from limbeck.errors import UsageError
from limbeck.evaluate.scoring import score_file
from limbeck.metrics.embedding_similarity import EmbeddingSimilarity
from limbeck.metrics.sentences import SentenceEncoder, encoder_revision
from sentence_encoders import made_encoder, write_encoder


def similarity(answer: str, *references: str) -> float:
    metric = EmbeddingSimilarity(model=made_encoder())
    return metric.compute([answer], [references]).value


def test_the_nearest_reference_counts() -> None:
    one, other = similarity("red cat", "red cat mat"), similarity("red cat", "blue dog")
    assert 0 <= other < one < 1
    assert similarity("red cat", "blue dog", "red cat mat") == one
    assert similarity("red cat", "cat red") == 1  # this encoder does not see the order


def test_an_answer_without_a_word_is_like_nothing() -> None:
    assert similarity(" ", "red cat") == 0
    assert similarity("red cat", "") == 0
    assert similarity("", " ") == 1


def test_vectors_are_means_over_real_tokens_as_transformers_gives_them() -> None:
    import torch
    from transformers import AutoModel, AutoTokenizer

    folder = made_encoder()
    tokenizer, model = (c.from_pretrained(folder) for c in (AutoTokenizer, AutoModel))
    texts = ["red", "a much longer text with many words", "red cat"]
    found = SentenceEncoder(Path(folder), "auto").vectors(texts)
    for text, vector in zip(texts, found, strict=True):
        with torch.no_grad():
            states = model.eval()(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        expected = torch.nn.functional.normalize(states.mean(0), dim=-1).numpy()
        assert vector == pytest.approx(expected, abs=1e-5)
    assert np.linalg.norm(found, axis=1) == pytest.approx(1, abs=1e-5)


def test_pooling_is_that_of_the_folder_unless_the_recipe_says_another(tmp_path: Path) -> None:
    write_encoder(tmp_path, pooling="cls_token")
    texts = ["red cat", "blue dog"]
    auto, first, mean = (
        SentenceEncoder(tmp_path, pooling).vectors(texts) for pooling in ("auto", "cls", "mean")
    )
    assert (auto == first).all()
    assert abs(auto - mean).max() > 0.01
    shutil.rmtree(tmp_path / "1_Pooling")
    assert (SentenceEncoder(tmp_path, "auto").vectors(texts) == mean).all()


def test_a_pooling_that_is_not_known_is_refused(tmp_path: Path) -> None:
    write_encoder(tmp_path, pooling="max_tokens")
    with pytest.raises(UsageError, match=r"pools by pooling_mode_max_tokens.*set pooling: mean or"):
        EmbeddingSimilarity(model=str(tmp_path)).compute(["a"], [["a"]])


def test_an_encoder_that_is_not_here_is_refused_with_the_command_to_get_it() -> None:
    metric = EmbeddingSimilarity(model="someone/nothing", revision="v1")
    with pytest.raises(UsageError, match=r"hf download someone/nothing --revision v1"):
        metric.compute(["a"], [["a"]])
    with pytest.raises(UsageError, match=r"needs config\.json and safetensors"):
        EmbeddingSimilarity(model=str(Path(__file__).parent)).content_key()


def test_the_revision_of_a_folder_is_the_content_of_its_weights(tmp_path: Path) -> None:
    first = made_encoder()
    shutil.copytree(first, tmp_path / "same")
    shutil.copytree(first, tmp_path / "other")
    weights = tmp_path / "other" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    same, other = (encoder_revision(str(tmp_path / name), None) for name in ("same", "other"))
    assert same == encoder_revision(first, None) != other


def test_scores_of_a_file_name_the_encoder(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text(json.dumps({"id": 1, "prediction": "red cat", "references": ["red cat"]}))
    chosen = {"kind": "embedding_similarity", "model": made_encoder()}
    row = score_file(path, [chosen], bootstrap=100)["scores"]["embedding_similarity"]
    assert row["value"] == 1
    assert row["details"]["model"] == made_encoder()
    assert row["details"]["revision"].startswith("sha256 ")
    assert made_encoder() in row["signature"]

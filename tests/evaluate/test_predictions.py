"""Prediction files of other systems: scored, or refused with file, line and mend."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from limbeck.errors import DataError, LimbeckError, UsageError
from limbeck.evaluate.predictions import read_prediction_rows
from limbeck.evaluate.scoring import score_file

GOOD = b'{"id": "1", "prediction": "a cat", "references": ["a cat", "one cat"]}'


def write(folder: Path, *lines: bytes) -> Path:
    path = folder / "predictions.jsonl"
    path.write_bytes(b"\n".join(lines))
    return path


def test_a_file_is_scored_with_intervals_and_signatures(tmp_path: Path) -> None:
    other = b'{"id": 2, "prediction": "dog", "references": ["a cat"], "metadata": {"app": "x"}}'
    path = write(tmp_path, b"\xef\xbb\xbf" + GOOD, b"", other, b"")
    metrics = ["exact_match", {"kind": "bleu", "implementation": "sacrebleu"}]
    result = score_file(path, metrics, bootstrap=200)
    assert result["n"] == 2
    exact = result["scores"]["exact_match"]
    assert (exact["value"], exact["low"], exact["high"], exact["n"]) == (0.5, 0.0, 1.0, 2)
    assert "tok:13a" in result["scores"]["bleu"]["signature"]
    assert [row.id for row in read_prediction_rows(path)] == ["1", "2"]
    json.dumps(result, allow_nan=False)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"id": ', "is not valid JSON"),
        (b"[1, 2]", "is a JSON array, not an object"),
        (b'"text"', "is a JSON string, not an object"),
        (b"\xff\xfe{}", "is not UTF-8"),
        (b"[" * 100_000, "is not valid JSON"),
        (b"9" * 10_000, "is not valid JSON"),
        (b'{"prediction": "a", "references": []}', "lacks the key 'id'"),
        (b'{"id": "2", "references": ["a"]}', "lacks the key 'prediction'"),
        (b'{"id": "2", "prediction": "a"}', "lacks the key 'references'"),
        (b'{"id": null, "prediction": "a", "references": []}', "id is a JSON null"),
        (b'{"id": true, "prediction": "a", "references": []}', "id is a JSON boolean"),
        (b'{"id": "2", "prediction": 5, "references": []}', "prediction is a JSON number"),
        (b'{"id": "2", "prediction": "a", "references": "a"}', "references is a JSON string"),
        (b'{"id": "2", "prediction": "a", "references": [1]}', "an item of references is"),
        (b'{"id": "2", "prediction": "a", "references": [], "metadata": 1}', "metadata is a JSON"),
        (b'{"id": 1, "prediction": "b", "references": []}', "id '1' is there already, in line 1"),
    ],
)
def test_a_bad_line_is_named_with_its_mend(tmp_path: Path, line: bytes, message: str) -> None:
    path = write(tmp_path, GOOD, b"", line)
    with pytest.raises(DataError) as caught:
        score_file(path, ["rouge_l"])
    assert str(caught.value).startswith(f"{path}:3: ")
    assert message in str(caught.value)
    assert caught.value.mend


@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_an_empty_file_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(DataError, match="holds no prediction"):
        score_file(write(tmp_path, content), ["rouge_l"])


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.jsonl", tmp_path):
        with pytest.raises(DataError, match="cannot be read") as caught:
            score_file(path, ["rouge_l"])
        assert caught.value.where == str(path)


def test_unknown_metrics_are_refused_with_the_nearest_word(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean 'rouge_l'"):
        score_file(write(tmp_path, GOOD), ["rouge_ll"])


def test_a_metric_that_no_row_suits_is_an_error_and_not_a_zero(tmp_path: Path) -> None:
    path = write(tmp_path, b'{"id": "1", "prediction": "a cat", "references": []}')
    with pytest.raises(DataError, match="no sample has what rouge_l compares with"):
        score_file(path, ["rouge_l"])


def test_fuzzed_files_raise_our_errors_only(tmp_path: Path) -> None:
    draw = random.Random(0)
    refused: list[str] = []
    whole = b"\n".join(GOOD.replace(b'"1"', b'"%d"' % i) for i in range(3))
    for _ in range(400):
        content = bytearray(whole)
        for _ in range(draw.randint(1, 4)):
            place = draw.randrange(len(content))
            content[place : place + draw.randint(0, 3)] = draw.choice(
                [b"", b"\x00", b"\xff", b"{", b"]", b'"', b"\n", b"null", b"\\u", b"1e999", b"NaN"]
            )
        path = write(tmp_path, bytes(content))
        try:
            score_file(path, ["rouge_l"], bootstrap=100)
        except LimbeckError as error:
            refused.append(str(error))
    assert len(refused) > 200
    assert all(message.startswith(str(tmp_path)) for message in refused)

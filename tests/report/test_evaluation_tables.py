"""Everything that scores.json says beside the scores is in a table, with the file's numbers."""

from __future__ import annotations

from typing import Any

from limbeck.evaluate.scoring import ModelPredictions, score_models
from limbeck.metrics.exact_match import ExactMatch
from limbeck.metrics.token_f1 import TokenF1
from limbeck.records import Prediction, Sample
from limbeck.report import evaluation_tables, score_tables
from limbeck.report.table import Table

N = 60
SAMPLES = [
    Sample(
        str(i), "test", (), references=(f"red{i} cat{i}",), metadata={"question_type": "ab"[i % 2]}
    )
    for i in range(N)
]


def results_of(*models: tuple[str, list[str]]) -> dict[str, Any]:
    answered = [
        ModelPredictions(a, a, None, [Prediction(str(i), a, t, 1) for i, t in enumerate(own)])
        for a, own in models
    ]
    scores, _ = score_models(answered, SAMPLES, [ExactMatch(), TokenF1()], bootstrap=200)
    return {"evaluation": scores, "headline": "token_f1"}


RIGHT = [sample.references[0] for sample in SAMPLES]
MORE = " and more words than anybody asked for" * 2
LONG = [text + MORE * (i % 3 > 0) for i, text in enumerate(RIGHT)]
NEARLY = [f"red{i} dog{i}" for i in range(N)]
RESULTS = results_of(("teacher", LONG), ("student", NEARLY))


def texts(table: Table) -> list[list[str]]:
    return [[cell.text for cell in row] for row in table.rows]


def test_scores_stand_beside_their_length_ratio() -> None:
    table = score_tables.scores_table(RESULTS)
    assert table.columns[-1] == "length"
    assert [row[-1] for row in texts(table)] == ["5.7×", "1.00×"]
    old = {**RESULTS["evaluation"], "arms": [{k: v for k, v in arm.items() if k != "length_ratio"}
                                             for arm in RESULTS["evaluation"]["arms"]]}  # fmt: skip
    assert "length" not in score_tables.scores_table({**RESULTS, "evaluation": old}).columns


def test_length_matched_scores_stand_beside_those_of_all_samples() -> None:
    table = evaluation_tables.length_matched_table(RESULTS)
    [row] = table.rows
    assert [cell.text for cell in row[:3]] == ["teacher, student", "Token F1", "20 of 60"]
    assert (row[3].text, row[4].text, row[5].text) == ("1.000", "0.500", "+0.500")
    whole = RESULTS["evaluation"]["differences"][1]
    assert row[6].text.replace("\N{MINUS SIGN}", "-") == f"{whole['mean']:+.3f}"
    assert "1.5 times" in table.note
    assert [row[1] for row in texts(evaluation_tables.all_length_matched_table(RESULTS))] == [
        "Exact match"
    ]
    alone = evaluation_tables.as_long_as_references_table(RESULTS)
    assert [row[:2] for row in texts(alone)] == [["teacher", "20"], ["student", "60"]]


def test_types_end_with_their_plain_mean() -> None:
    tables = score_tables.group_tables(RESULTS)
    for table, kind in zip(tables, ("token_f1", "exact_match"), strict=True):
        last = texts(table)[-1]
        assert last[:2] == ["mean over these", "60"]
        means = RESULTS["evaluation"]["group_means"]["question_type"]
        assert last[2] == f"{means['teacher'][kind]['value']:.3f}"


def test_likeness_to_the_teacher_is_shown_with_or_without_tokens() -> None:
    table = evaluation_tables.fidelity_table(RESULTS)
    assert table.columns == ("arm", "same text", "ROUGE-L with the teacher")
    assert texts(table)[0][:2] == ["student", "0.0 %"]
    score = {"mean": 0.9, "low": 0.8, "high": 0.95, "n": 60}
    fidelity = {
        **{"top_k": 64, "tail_mass": 0.0123, "samples": 60, "tokens": 1234},
        "arms": [
            {
                "arm": "student",
                "scores": {"token_agreement": score, "kl_nats": {**score, "mean": 3e-5}},
            }
        ],
        "differences": [
            {"a": "student", "b": "control", "metric": "kl_nats", **score},
        ],
        "left_out": {"other": "the tokenizers are not the same"},
    }
    scores = {**RESULTS["evaluation"], "fidelity": fidelity}
    measured = {**RESULTS, "evaluation": scores}
    table = evaluation_tables.fidelity_table(measured)
    assert texts(table)[0][3:] == ["90.0 %", "0.0000300"]
    assert "1,234 tokens of 60 samples" in table.note
    assert "1.23 % of its mass: a lower bound" in table.note
    assert "other is left out: the tokenizers are not the same." in table.note
    [row] = texts(evaluation_tables.fidelity_differences_table(measured))
    assert row[1:] == ["KL, nats a token", "+0.900", "60"]


def test_rankings_that_turn_around_are_listed() -> None:
    [flip] = RESULTS["evaluation"]["flips"][:1]
    rows = texts(evaluation_tables.flips_table(RESULTS))
    assert len(rows) == len(RESULTS["evaluation"]["flips"])
    assert rows[0][0] == "teacher, student"
    assert rows[0][4] == ("yes" if flip["beyond_noise"] else "no")


def test_results_of_earlier_versions_have_none_of_these_tables() -> None:
    new = {"flips", "length_matched", "fidelity", "text_agreement", "group_means"}
    scores = {k: v for k, v in RESULTS["evaluation"].items() if k not in new}
    old = {**RESULTS, "evaluation": scores}
    for make in (
        evaluation_tables.flips_table,
        evaluation_tables.length_matched_table,
        evaluation_tables.fidelity_table,
        evaluation_tables.fidelity_differences_table,
        evaluation_tables.as_long_as_references_table,
    ):
        assert make(old).rows == ()
    assert len(score_tables.group_tables(old)[0].rows) == 2

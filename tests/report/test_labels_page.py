"""Labels as a table and as a page: what is counted, what is shown, what cannot do harm."""

from __future__ import annotations

import dataclasses
import json
import re
from html import unescape
from pathlib import Path

import pytest
from made_labels import make_labels

from limbeck.data.labels import read_labels, write_labels
from limbeck.errors import DataError
from limbeck.records import Label
from limbeck.report.labels import describe_labels, labels_page, summarise_labels


def gallery_of(page: str) -> dict:
    return json.loads(re.search(r'id="gallery-data">(.*?)</script>', page)[1])


def test_counts_quantiles_and_examples(tmp_path: Path) -> None:
    labels, samples, _ = make_labels(tmp_path)
    found = summarise_labels(labels, samples)
    assert (found["labels"], found["fit"], found["unfit"]) == (60, 50, 10)
    assert found["splits"] == {
        "train": {"labels": 40, "unfit": 7},
        "unlabelled": {"labels": 20, "unfit": 3},
    }
    assert found["reasons"] == {"refuses": 5, "longer than 3 words": 5, "empty": 5}
    assert found["gold"] == sum(row.gold for row in labels)
    assert found["of_fit_answers"]["mean_log_probability"]["n"] == 50
    assert found["of_fit_answers"]["tokens"]["quantiles"]["0"] == 3
    assert len(found["examples"]["fit"]) == 3
    assert [e["reasons"][0] for e in found["examples"]["unfit"]] == ["refuses", "empty"]
    text = describe_labels(found)
    assert "60 labels: 50 fit, 10 unfit (16.7%)" in text
    assert re.search(r"median", text)
    assert json.loads(json.dumps(found)) == found


def test_what_is_not_known_is_left_out(tmp_path: Path) -> None:
    labels, samples, data = make_labels(tmp_path)
    plain = [dataclasses.replace(r, mean_log_probability=None, agreement=None) for r in labels]
    found = summarise_labels(plain, samples)
    assert found["of_fit_answers"]["agreement"] is None
    assert "agreement" not in describe_labels(found)
    gallery = gallery_of(labels_page(found, plain, samples, data, name="run"))
    assert [metric["kind"] for metric in gallery["metrics"]] == ["tokens", "characters"]


def test_a_terminal_is_not_moved_by_what_an_answer_holds(tmp_path: Path) -> None:
    labels, samples, _ = make_labels(tmp_path, texts=("\x1b[2J\x1b[31mred\u202e", "\x07 bell"))
    text = describe_labels(summarise_labels(labels, samples))
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "\\x1b[2J" in text


def test_the_page_shows_unfit_labels_first_of_all_and_says_how_many(tmp_path: Path) -> None:
    labels, samples, data = make_labels(tmp_path)
    found = summarise_labels(labels, samples)
    page = labels_page(found, labels, samples, data, name="run", limit=16)
    gallery = gallery_of(page)
    kinds = [sample["metadata"]["label"] for sample in gallery["samples"]]
    assert (kinds.count("unfit"), kinds.count("fit")) == (8, 8)
    assert len(gallery["images"]) == 16
    assert "16 of 60 answers" in page
    whole = gallery_of(labels_page(found, labels, samples, data, name="run"))
    assert [s["id"] for s in whole["samples"]] == [row.sample_id for row in labels]
    first = whole["samples"][0]
    assert first["metadata"]["reason"] == "refuses"
    assert first["metadata"]["other reasons"] == "longer than 3 words"
    assert whole["categories"]["split"] == ["train", "unlabelled"]
    assert whole["categories"]["reason"] == ["empty", "refuses"]


def test_the_page_asks_the_network_for_nothing(tmp_path: Path) -> None:
    labels, samples, data = make_labels(tmp_path, texts=("</script><img src=http://x/>",))
    found = summarise_labels(labels, samples)
    page = labels_page(found, labels, samples, data, name="<b>run</b>")
    assert "default-src 'none'" in unescape(page)
    assert "</script><img" not in page
    assert "<b>run</b>" not in page
    assert not re.findall(r"(?:src|href)=[\"']?(?!#|data:)[^\"' >]+", page.split("<script")[0])


def test_labels_of_other_samples_are_refused(tmp_path: Path) -> None:
    _, samples, _ = make_labels(tmp_path)
    with pytest.raises(DataError, match="belongs to no sample"):
        summarise_labels([Label("nobody", "x", True)], samples)


def test_agreement_and_gold_survive_the_table_of_labels(tmp_path: Path) -> None:
    labels, _, _ = make_labels(tmp_path)
    write_labels(tmp_path, labels)
    assert read_labels(tmp_path) == labels

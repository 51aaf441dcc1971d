"""Files as they come: encodings, columns, splits by name, captions beside pictures."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from PIL import Image

import limbeck.data.sources.jsonl as jsonl_module
from limbeck.data.sources import Row
from limbeck.data.sources.folder import Folder
from limbeck.data.sources.hub import Hub
from limbeck.data.sources.jsonl import Jsonl
from limbeck.data.sources.parquet import Parquet
from limbeck.errors import DataError

CHAT = '{"messages": [{"role": "user", "content": "Hi é"}]}'


def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "PNG")
    return buffer.getvalue()


def lines(folder: Path, content: bytes, **options: object) -> list[Row]:
    path = folder / "rows.jsonl"
    path.write_bytes(content)
    return list(Jsonl(path=str(path), **options).rows())


def test_bom_crlf_and_blank_lines_are_no_rows(tmp_path: Path) -> None:
    content = b"\xef\xbb\xbf" + f"{CHAT}\r\n\r\n   \n{CHAT}".encode()
    rows = lines(tmp_path, content)
    assert [row.error for row in rows] == [None, None]
    assert [row.id for row in rows] == ["row-1", "row-4"]
    assert rows[0].messages[0]["content"] == "Hi é"


BAD_LINES = {
    b'{"a": NaN}': "NaN is no JSON value",
    b'{"a": -Infinity}': "Infinity is no JSON value",
    b'{"a": ': "not JSON",
    b"{'a': 1}": "not JSON",
    b'{"a": "\xff"}': "not UTF-8 text (byte 7)",
    CHAT.encode("latin-1"): "not UTF-8",
    b"[" * 100_000: "nested too deep",
    b'{"a": ' + b"9" * 5000 + b"}": "not JSON",
    b"[1, 2]": "not a mapping",
    b"null": "not a mapping",
    b'"text"': "not a mapping",
    b"{}": "neither messages nor an image",
    b'{"messages": null, "image": null}': "neither messages nor an image",
    b'{"id": [1], "image": "a"}': "id is neither",
    b'{"id": "", "image": "a"}': "id is neither",
    b'{"split": 3, "image": "a"}': "split is not a name",
    b'{"messages": "not json"}': "messages is text but not JSON",
}


@pytest.mark.parametrize("line", BAD_LINES)
def test_a_bad_line_is_a_row_with_its_reason_and_number(line: bytes, tmp_path: Path) -> None:
    rows = lines(tmp_path, CHAT.encode() + b"\n" + line + b"\n" + CHAT.encode())
    assert [row.error is None for row in rows] == [True, False, True]
    assert BAD_LINES[line] in str(rows[1].error)
    assert rows[1].where.endswith("rows.jsonl:2")


def test_a_line_beyond_the_limit_is_skipped_without_reading_it_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jsonl_module, "MAX_LINE_BYTES", 100)
    rows = lines(tmp_path, b'{"a": "' + b"x" * 1000 + b'"}\n' + CHAT.encode() + b"\n")
    assert "longer than" in str(rows[0].error)
    assert rows[1].error is None
    assert rows[1].where.endswith(":2")


def test_utf_16_is_refused_with_the_mend(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is UTF-16, not UTF-8; convert it"):
        lines(tmp_path, CHAT.encode("utf-16"))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.jsonl: no such file"):
        list(Jsonl(path=str(tmp_path / "nowhere.jsonl")).rows())


def test_splits_come_from_paths_names_and_columns(tmp_path: Path) -> None:
    for name in ("train-0", "train-1", "val", "test_set", "other"):
        (tmp_path / f"{name}.jsonl").write_text(CHAT + "\n" + CHAT)
    source = Jsonl(path=str(tmp_path / "*.jsonl"), split_names={"other": "test"})
    rows = list(source.rows())
    splits = [source.split_of(row.split) for row in rows]
    assert splits == ["train"] * 2 + ["test"] * 2 + ["train"] * 4 + ["validation"] * 2
    assert len({row.id for row in rows}) == len(rows)
    paths = {"train": str(tmp_path / "val.jsonl"), "test": str(tmp_path / "other.jsonl")}
    by_split = [row.split for row in Jsonl(paths=paths).rows()]
    assert by_split == ["train", "train", "test", "test"]
    (tmp_path / "one.jsonl").write_text('{"image": "a", "part": "dev"}')
    (row,) = Jsonl(path=str(tmp_path / "one.jsonl"), columns={"split": "part"}).rows()
    assert source.split_of(row.split) == "validation"


def test_columns_and_template_make_a_chat(tmp_path: Path) -> None:
    line = json.dumps(
        {"pic": ["a.png", "b.png"], "q": "Is <image> {odd}?", "gold": "Yes", "kind": "c", "n": 3}
    )
    (row,) = lines(
        tmp_path,
        line.encode(),
        columns={"image": "pic", "references": "gold", "category": "kind", "metadata": ["n"]},
        prompt="First <image>, then <image>: {q}",
    )
    assert row.images == ["a.png", "b.png"]
    assert row.references == "Yes"
    assert row.metadata == {"n": 3, "category": "c"}
    kinds = [part.get("text", "IMAGE") for part in row.messages[0]["content"]]
    assert kinds == ["First ", "IMAGE", ", then ", "IMAGE", ": Is <image> {odd}?"]


def test_a_column_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    line = b'{"image": "a.png", "caption": "x"}'
    (row,) = lines(tmp_path, line, columns={"references": "captoin"})
    assert row.error == "row has no column 'captoin' (it has: caption, image)"
    (row,) = lines(tmp_path, line, prompt="{question}")
    assert "no column 'question'" in str(row.error)


def test_parquet_names_a_missing_column_once(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"image": [png()], "text": ["x"]}), tmp_path / "a.parquet")
    source = Parquet(path=str(tmp_path / "a.parquet"), columns={"references": "captions"})
    with pytest.raises(DataError, match="no column 'captions'; columns: image, text"):
        list(source.rows())


def test_parquet_keys_notice_a_changed_picture_outside(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "a.png").write_bytes(png())
    pq.write_table(pa.table({"image": ["a.png"]}), tmp_path / "a.parquet")
    source = Parquet(path=str(tmp_path / "a.parquet"))
    before = source.content_key()
    (tmp_path / "a.png").write_bytes(png() + b"more")
    assert source.content_key() != before


def test_jsonl_keys_notice_a_changed_picture_inside_a_message(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png())
    turn = {"role": "user", "content": [{"type": "image", "image": "a.png"}]}
    (tmp_path / "a.jsonl").write_text(json.dumps({"messages": [turn]}))
    source = Jsonl(path=str(tmp_path / "a.jsonl"))
    before = source.content_key()
    (tmp_path / "a.png").write_bytes(png() + b"more")
    assert source.content_key() != before


def test_folder_reads_tables_captions_and_categories(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    for name in ("train/cats/a.png", "train/b.png", "test/dogs/big/c.PNG", "d.png", ".hidden.png"):
        (plain / name).parent.mkdir(parents=True, exist_ok=True)
        (plain / name).write_bytes(png())
    (plain / "train/cats/a.txt").write_text("\ufeffA cat.\n")
    rows = {row.id: row for row in Folder(path=str(plain)).rows()}
    assert set(rows) == {"train/cats/a.png", "train/b.png", "test/dogs/big/c.PNG", "d.png"}
    assert rows["train/cats/a.png"].references == ["A cat."]
    assert rows["train/cats/a.png"].metadata == {"category": "cats"}
    assert rows["test/dogs/big/c.PNG"].metadata == {"category": "dogs/big"}
    assert [rows[name].split for name in sorted(rows)] == [None, "test", "train", "train"]
    assert not rows["d.png"].references

    table = tmp_path / "table"
    (table / "val").mkdir(parents=True)
    (table / "val" / "x.png").write_bytes(png())
    (table / "val" / "metadata.csv").write_text('file_name,text\nx.png,"one, two"\n,\nx.png,a,b\n')
    good, nameless, wide = Folder(path=str(table)).rows()
    assert (good.id, good.split, good.references) == ("val/x.png", "val", "one, two")
    assert nameless.error == "row has no file_name"
    assert "more fields" in str(wide.error)
    assert wide.where.endswith("metadata.csv:4")


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="folder not found"):
        list(Folder(path=str(tmp_path / "no")).rows())


def test_hub_without_cache_or_network_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    source = Hub(name="owner/set")
    for ask in (source.content_key, lambda: list(source.rows())):
        with pytest.raises(DataError, match="not in the cache") as caught:
            ask()
        assert "hf download owner/set --repo-type dataset" in str(caught.value)


def test_hub_reads_a_cached_snapshot_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    commit = "0123456789abcdef" * 2 + "01234567"
    cached = tmp_path / "datasets--owner--set"
    blob, snapshot = cached / "blobs" / "b1", cached / "snapshots" / commit
    (cached / "refs").mkdir(parents=True)
    blob.parent.mkdir()
    (snapshot / "train").mkdir(parents=True)
    (cached / "refs" / "main").write_text(commit)
    blob.write_bytes(png())
    (snapshot / "train" / "a.png").symlink_to(blob)
    (snapshot / "train" / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "A."}')
    source = Hub(name="owner/set")
    assert source.content_key() == {"commit": commit}
    (row,) = source.rows()
    assert (row.references, row.split, row.error) == ("A.", "train", None)
    from limbeck.data.prepare import prepare

    assert prepare(source, tmp_path / "out")["samples"] == {"train": 1}


def test_hub_refuses_an_incomplete_download(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "data").mkdir()
    pq.write_table(pa.table({"image": [png()] * 2}), tmp_path / "data" / "train-0.parquet")
    card = "---\ndataset_info:\n  splits:\n  - name: train\n    num_examples: 3\n---\n"
    (tmp_path / "README.md").write_text(card)
    with pytest.raises(DataError, match="'train' has 2 rows, its card says 3"):
        list(Hub(name=str(tmp_path)).rows())


@pytest.mark.parametrize("name", ["rows.py", "rows.pkl", "rows.txt"])
def test_hub_runs_and_unpickles_nothing(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"cos\nsystem\n(S'touch owned'\ntR.")
    with pytest.raises(DataError, match=r"not a data set|not supported"):
        list(Hub(name=str(tmp_path)).rows())

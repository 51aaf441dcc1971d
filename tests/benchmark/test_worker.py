import pytest
import torch
from PIL import Image

from limbeck.benchmark import worker
from limbeck.benchmark.subject import Subject
from limbeck.benchmark.timing import Call, Window
from limbeck.benchmark.worker import answer_to, regimes
from limbeck.errors import LimbeckError
from limbeck.models.qwen2_vl import FAMILY
from limbeck.recipe.sections import Benchmark, ModelSection
from limbeck.records import ImageFile, Sample

PROMPT = ({"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "describe"}]},)


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    folder = tmp_path_factory.mktemp("subject")
    Image.new("RGB", (64, 64), "blue").save(folder / "blue.png")
    return Subject(ModelSection(model=str(FAMILY.tiny(folder / "model"))), folder, "cpu")


def sample():
    return Sample("a", "test", PROMPT, (ImageFile("blue.png", "", 64, 64),))


def test_every_new_token_is_heard_of_and_the_answer_stays_the_same(subject):
    items = subject.encode([sample(), sample()])
    heard = []
    count = subject.generate(items, lambda: heard.append(1), max_new_tokens=5, min_new_tokens=5)
    assert (count, len(heard)) == (10, 5)
    watched = subject.loaded.generate(items, max_new_tokens=5)
    watching = vars(subject.loaded.base).pop("generate")  # back to the class's own
    assert subject.loaded.generate(items, max_new_tokens=5) == watched
    subject.loaded.base.generate = watching


def test_the_prompt_is_never_counted_as_generated(subject):
    items = subject.encode([sample()])
    assert len(items[0].input_ids_L) > 4
    assert subject.generate(items, lambda: None, max_new_tokens=1) == 1


def test_small_regimes_come_first_and_only_once():
    settings = Benchmark(batch_sizes=(8, 1, 8), new_tokens=4, max_new_tokens=9)
    assert regimes(settings) == [
        ("natural_length/batch_1", 1, {"max_new_tokens": 9}),
        ("fixed_length/batch_1", 1, {"max_new_tokens": 4, "min_new_tokens": 4}),
        ("fixed_length/batch_8", 8, {"max_new_tokens": 4, "min_new_tokens": 4}),
    ]


def test_a_fixed_length_that_was_not_kept_is_an_error():
    window = Window((Call(2, 8, 0.0, 0.1, 0.2), Call(2, 7, 0.0, 0.1, 0.2)), ())
    with pytest.raises(LimbeckError, match="7 tokens"):
        worker._check_length("fixed_length/batch_2", window, {"min_new_tokens": 4})
    worker._check_length("natural_length/batch_1", window, {"max_new_tokens": 4})


def spec():
    return {
        "section": ModelSection(model="m").model_dump(mode="json"),
        "settings": Benchmark().model_dump(mode="json"),
        "samples": [
            {
                "id": "a",
                "split": "test",
                "messages": list(PROMPT),
                "images": [],
                "references": [],
                "metadata": {},
            }
        ],
        "data": ".",
        "device": "cpu",
        "seed": 0,
    }


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        RuntimeError("MPS backend out of memory"),
    ],
)
def test_running_out_of_memory_is_exit_code_6_however_it_is_said(monkeypatch, error):
    def refuse(*_):
        raise error

    monkeypatch.setattr(worker, "Subject", refuse)
    monkeypatch.setattr(worker, "model_files", lambda section: [])
    answer, exit_code = answer_to(spec())
    assert exit_code == 6
    assert "memory of cpu" in answer["error"]["what"]


def test_an_error_that_is_no_lack_of_memory_is_not_called_one(monkeypatch):
    def refuse(*_):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(worker, "Subject", refuse)
    monkeypatch.setattr(worker, "model_files", lambda section: [])
    with pytest.raises(RuntimeError, match="mat1"):
        answer_to(spec())

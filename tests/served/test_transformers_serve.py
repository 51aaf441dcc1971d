"""A real `transformers serve` gives the text that the same model gives in this process.

Its packages are the extra `serving`; without them the test is skipped.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from limbeck.benchmark.served import benchmark_served
from limbeck.data.samples import read_samples
from limbeck.errors import TeacherError
from limbeck.recipe.sections import Benchmark
from limbeck.teachers import Decoding
from limbeck.teachers.openai import OpenAI
from limbeck.teachers.transformers import Transformers

pytestmark = pytest.mark.slow
for package in ("fastapi", "uvicorn", "openai"):
    pytest.importorskip(package)


@pytest.fixture(scope="module")
def address(taught_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    program = "from transformers.cli.transformers import main; main()"
    log = tmp_path_factory.mktemp("serve") / "log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            [sys.executable, "-c", program, "serve", str(taught_model), *options],
            stdout=output,
            stderr=output,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
        )
        try:
            url = f"http://127.0.0.1:{port}"
            for _ in range(240):
                assert server.poll() is None, log.read_text()[-2000:]
                try:
                    urllib.request.urlopen(f"{url}/health", timeout=1).close()
                    break
                except OSError:
                    time.sleep(0.5)
            yield f"{url}/v1"
        finally:
            server.terminate()
            server.wait(timeout=30)


def teacher(address: str, model: Path, **fields: object) -> OpenAI:
    given = {"base_url": address, "model": str(model), "concurrency": 2, **fields}
    return OpenAI.model_validate(given)


def test_greedy_text_is_that_of_the_backend_transformers(
    address: str, taught_model: Path, screens: Path
) -> None:
    samples = read_samples(screens, "train", 8)
    own = Transformers(model=str(taught_model)).open(screens, device="cpu")
    wanted = own.generate(samples, Decoding(64))
    for fields in ({}, {"tokenizer": str(taught_model)}):
        session = teacher(address, taught_model, **fields).open(screens, device="cpu")
        found = session.generate(samples, Decoding(64))
        session.check_image_sensitivity(samples)
        session.close()
        assert [a.text for a in found] == [a.text for a in wanted]
        assert [a.tokens for a in found] == [a.tokens for a in wanted]
        assert [a.finished for a in found] == [a.finished for a in wanted]
        assert any(a.finished for a in found)


def test_it_is_timed_with_fixed_lengths_and_its_own_counts(
    address: str, taught_model: Path, screens: Path, tmp_path: Path
) -> None:
    settings = Benchmark(samples=2, repeats=2, warmup=1, new_tokens=40, max_new_tokens=64)
    benchmark_served(
        teacher(address, taught_model), settings, screens, tmp_path, responses=None, job="j"
    )
    results = json.loads((tmp_path / "results.json").read_text())
    found = {(one["regime"], one["name"]): one for one in results["measurements"]}
    for size, n in ((1, 4), (2, 4)):
        regime = f"served/fixed_length/concurrency_{size}"
        assert found[regime, "new_tokens_mean"]["value"] == 40
        assert found[regime, "latency_ms"]["n"] == n
        first = found[regime, "time_to_first_token_ms"]["value"]
        further = found[regime, "inter_token_ms"]["value"]
        assert first + 39 * further == pytest.approx(found[regime, "latency_ms"]["value"], rel=0.3)
    natural = found["served/natural_length/concurrency_1", "new_tokens_mean"]["value"]
    assert natural != 40
    assert results["prompt_tokens_mean"] > 10
    assert not any("piece by piece" in note for note in results["served"]["notes"])


def test_that_it_ignores_log_probabilities_is_found_out(
    address: str, taught_model: Path, screens: Path
) -> None:
    fields = {"log_probabilities": True, "tokenizer": str(taught_model)}
    session = teacher(address, taught_model, **fields).open(screens, device="cpu")
    with pytest.raises(TeacherError, match=r"ignores.*label\.signal to none"):
        session.generate(read_samples(screens, "train", 1), Decoding(64, top_log_probabilities=5))
    session.close()


def test_another_model_than_it_serves_is_named(
    address: str, taught_model: Path, screens: Path
) -> None:
    session = teacher(address, Path("another/model")).open(screens, device="cpu")
    with pytest.raises(TeacherError, match=r"pinned to .*check teacher\.model"):
        session.generate(read_samples(screens, "train", 1), Decoding(64))
    session.close()

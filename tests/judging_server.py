"""Judges behind a fake server, of known biases, and answers for them to judge."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from chat_server import Body, Sent, completion
from limbeck.data.samples import read_samples
from limbeck.evaluate.judge.stage import judge
from limbeck.recipe.sections import Evaluation
from limbeck.records import Sample

SHOWN = re.compile(r"<(task|gold-answer|answer(?:-[AB])?)-(\w{8})>\n(.*?)\n</\1-\2>", re.S)


def prompt_of(body: Body) -> str:
    (turn,) = body["messages"]
    parts = turn["content"]
    return parts if isinstance(parts, str) else parts[-1]["text"]


def shown_in(body: Body) -> dict[str, list[str]]:
    """What stands between the markers of a prompt, by name."""
    found: dict[str, list[str]] = {}
    for name, _, text in SHOWN.findall(prompt_of(body)):
        found.setdefault(name, []).append(text)
    return found


class Judges:
    """Responds as a judge that `decides`; keeps every body that it was asked."""

    def __init__(self, decides: Callable[[dict[str, list[str]]], str]) -> None:
        self.decides, self.bodies = decides, []

    def __call__(self, body: Body, _: dict[str, str]) -> Sent:
        self.bodies.append(body)
        return Sent(completion(self.decides(shown_in(body))))


def questions(screens: Path, split: str = "test") -> list[Sample]:
    """Samples of which each asks for itself, so that a server can know the gold answer."""
    picture = {"type": "image"}

    def asking(sample: Sample) -> Sample:
        content = [picture, {"type": "text", "text": f"Screen {sample.id}?"}]
        return replace(sample, messages=({"role": "user", "content": content},))

    return [asking(sample) for sample in read_samples(screens, split)]


class Knows:
    """A judge that knows the gold answers, and takes any other for wrong."""

    def __init__(self, samples: list[Sample]) -> None:
        self.gold = {f"Screen {sample.id}?": sample.references for sample in samples}

    def __call__(self, shown: dict[str, list[str]]) -> str:
        right = [
            shown[name][0] in self.gold[shown["task"][0]]
            for name in ("answer-A", "answer-B", "answer")
            if name in shown
        ]
        if len(right) == 1:
            return f"It is what it is.\nSCORE: {5 if right[0] else 2}"
        verdict = "TIE" if right[0] == right[1] else "A" if right[0] else "B"
        return f"I looked at both.\n**VERDICT: {verdict}**"


def write_answers(folder: Path, samples: list[Sample], texts: list[str]) -> Path:
    """A finished predictions stage."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        {"id": sample.id, "prediction": text, "new_tokens": 3, "finished": True}
        for sample, text in zip(samples, texts, strict=True)
    ]
    (folder / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def right_and_wrong(folder: Path, samples: list[Sample]) -> list[tuple[str, str, int, Path]]:
    """Student and teacher give the gold answers; the control those of the sample before."""
    gold = [sample.references[0] for sample in samples]
    made = {"student": gold, "teacher": gold, "control": [*gold[-1:], *gold[:-1]]}
    return [
        (f"{arm}-seed0", arm, 0, write_answers(folder / arm, samples, texts))
        for arm, texts in made.items()
    ]


def run_judge(
    output: Path,
    section: dict[str, Any],
    models: list[tuple[str, str, int, Path]],
    samples: list[Sample],
    data: Path,
    **evaluate: Any,
) -> dict[str, Any]:
    """Run the stage; the content of judge.json."""
    settings = Evaluation.model_validate({"bootstrap": 200, "judge": section, **evaluate})
    assert settings.judge is not None
    pairs = [("student", "control"), ("student", "teacher")]
    judge(
        output,
        model=settings.judge.model,  # type: ignore[arg-type]
        settings=settings,
        models=models,
        pairs=[pair for pair in pairs if {*pair} <= {arm for _, arm, _, _ in models}],
        samples=samples,
        data=data,
        device="cpu",
        responses=output.parent / "responses",
        about={"name": "judge-1", "warnings": [], "forced_teacher": False},
    )
    return json.loads((output / "judge.json").read_text())

"""Several teachers as one: who answers what, whose answer is kept, and what they refuse."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from limbeck.data.samples import read_samples
from limbeck.errors import DataError, TeacherError, UsageError
from limbeck.models.build import build_model
from limbeck.recipe import recipe_from
from limbeck.recipe.component import build_component
from limbeck.records import Dense, Sample
from limbeck.teachers import Answer, Decoding, OpenTeacher, Request, ScoredAnswer, Teacher
from limbeck.teachers.mixture import Mixture, Route
from limbeck.teachers.several import every_teacher, routed_teachers
from tiny_models import tiny_build


@pytest.fixture(scope="module")
def samples(screens: Path) -> list[Sample]:
    return read_samples(screens, "train")


@pytest.fixture(scope="module")
def other_model(screens: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the same tokenizer as the tiny model, with other weights."""
    texts = [
        text
        for sample in read_samples(screens)
        for text in (sample.messages[0]["content"][-1]["text"], *sample.references)
    ]
    folder = tmp_path_factory.mktemp("other") / "model"
    build_model(tiny_build(), texts, 7, folder)
    return folder


def mixture(*models: Path, route: Any, **members: Any) -> Mixture:
    teachers = [{"backend": "transformers", "model": str(m), **members} for m in models]
    return Mixture.model_validate({"teachers": teachers, "route": route})


BY_APP = {"by": "category", "to": {"mail": 0, "chat": 0, "news": 0}, "otherwise": 1}


def number_of(sample: Sample) -> int:
    return Route.model_validate(BY_APP).number_of(sample)


def test_a_value_of_the_metadata_says_who_answers(
    screens: Path, samples: list[Sample], tiny_model: Path, other_model: Path
) -> None:
    made = mixture(tiny_model, other_model, route=BY_APP)
    session = made.open(screens, device="cpu")
    alone = [member.open(screens, device="cpu") for member in made.members()]
    batches = [[Request(s) for s in samples[i : i + 4]] for i in range(0, 12, 4)]
    found: dict[str, Answer] = {}
    for requests, answers in session.stream(batches, Decoding(8)):
        assert len({a.teacher for a in answers}) == 1
        found |= {r.sample.id: a for r, a in zip(requests, answers, strict=True)}
    assert len(found) == 12
    assert {a.teacher for a in found.values()} == {"0 transformers", "1 transformers"}
    for sample in samples[:12]:
        number = number_of(sample)
        assert found[sample.id].teacher == f"{number} transformers"
        assert found[sample.id].text == alone[number].generate([sample], Decoding(8))[0].text
    texts = [sample.references[0] for sample in samples[:6]]
    for sample, text, scored in zip(
        samples, texts, session.score(samples[:6], texts), strict=False
    ):
        (own,) = alone[number_of(sample)].score([sample], [text])
        (others,) = alone[1 - number_of(sample)].score([sample], [text])
        assert (scored.logits_NV - own.logits_NV).abs().max() < 1e-4
        assert (scored.logits_NV - others.logits_NV).abs().max() > 1e-2


def test_shares_are_kept_and_do_not_depend_on_the_other_samples(samples: list[Sample]) -> None:
    route = Route(shares=(3, 1))
    many = [replace(samples[0], id=f"s-{number}") for number in range(2000)]
    counts = Counter(map(route.number_of, many))
    assert counts[0] / 2000 == pytest.approx(0.75, abs=0.03)
    assert [route.number_of(s) for s in many[::-1]] == [route.number_of(s) for s in many][::-1]


def test_a_value_that_goes_nowhere_names_the_sample(samples: list[Sample]) -> None:
    route = Route.model_validate({"by": "category", "to": {"nothing": 0}})
    with pytest.raises(DataError, match="no teacher for category") as raised:
        route.number_of(samples[0])
    assert samples[0].id in str(raised.value)


@pytest.mark.parametrize(
    ("route", "words"),
    [
        ({"by": "category"}, "by needs a value in `to`"),
        ({"by": "category", "to": {"mail": 2}}, "there is no teacher 2"),
        ({"by": "category", "to": {"mail": 0}, "otherwise": 5}, "route.otherwise"),
        ({"shares": [1, 1, 1]}, "3 shares for 2 teachers"),
        ({"shares": [1, 1], "by": "category"}, "either by or shares"),
        ("some", "must be 'all'"),
    ],
)
def test_routes_that_lead_nowhere_are_refused_with_their_place(route: Any, words: str) -> None:
    member = {"backend": "transformers", "model": "m"}
    with pytest.raises(UsageError) as raised:
        recipe_from(
            {
                "name": "x",
                "data": "screens",
                "teacher": {"backend": "mixture", "teachers": [member] * 2, "route": route},
                "student": {"model": "m"},
                "losses": ["cross_entropy"],
            }
        )
    assert words in str(raised.value)


def test_a_mixture_in_a_mixture_is_refused() -> None:
    inner = {"backend": "mixture", "teachers": [], "route": "all"}
    with pytest.raises(UsageError, match="mixture cannot stand in mixture"):
        build_component(
            "limbeck.teachers",
            "backend",
            {"backend": "mixture", "teachers": [inner, inner], "route": "all"},
        )


def test_it_can_what_all_of_its_teachers_can(tiny_model: Path) -> None:
    class Texts(Teacher):
        backend: str = "texts"

        def capabilities(self) -> Any:
            return frozenset(("log_probabilities",))

    def can(*members: Any, route: Any) -> set[str]:
        made = mixture(tiny_model, tiny_model, route=route)
        return set(made.with_members(members).capabilities())

    full = mixture(tiny_model, tiny_model, route="all").members()[0]
    assert can(full, full, route={"shares": [1, 1]}) == {"score", "whole_distributions"}
    assert can(full, Texts(), route={"shares": [1, 1]}) == set()
    assert can(full, full, route="all") == {"whole_distributions", "log_probabilities"}
    assert can(Texts(), Texts(), route="all") == {"log_probabilities"}


@dataclass
class Fixed(OpenTeacher):
    """Answers what it was made with; finds each text as likely as `likes` says."""

    text: str
    likes: dict[str, float] = field(default_factory=lambda: {})
    finished: bool = True
    failure: str | None = None
    vocabulary_rows = None

    def generate(self, samples: Sequence[Sample], decoding: Decoding) -> list[Answer]:
        return [Answer(self.text, 2, self.finished, self.failure) for _ in samples]

    def score(self, samples: Sequence[Sample], answers: Sequence[str]) -> list[ScoredAnswer]:
        rows = [torch.tensor([[self.likes[a], 1 - self.likes[a]]]).log() for a in answers]
        return [ScoredAnswer((0,), Dense(row)) for row in rows]


def chosen(samples: list[Sample], *members: Fixed, can_score: bool) -> Answer:
    names = [str(number) for number in range(len(members))]
    session = every_teacher(names, members, can_score=can_score)
    (answer,) = session.generate(samples[:1], Decoding(4))
    return answer


def test_all_together_choose_the_answer_that_they_find_the_likeliest(
    samples: list[Sample],
) -> None:
    sure, unsure = {"a": 0.9, "b": 0.6}, {"a": 0.1, "b": 0.8}
    answer = chosen(samples, Fixed("a", sure), Fixed("b", unsure), can_score=True)
    assert (answer.text, answer.teacher) == ("b", "1")
    assert answer.mean_log_probability == pytest.approx(torch.tensor(0.8).log().item())
    answer = chosen(samples, Fixed("a", sure), Fixed("b", {"a": 0.7, "b": 0.8}), can_score=True)
    assert (answer.text, answer.teacher) == ("a", "0")


def test_without_scores_the_answer_with_most_in_common_is_kept(samples: list[Sample]) -> None:
    answers = (Fixed("a red car"), Fixed("a red bus on a road"), Fixed("the red bus on the road"))
    assert chosen(samples, *answers, can_score=False).teacher == "1"


def test_an_answer_that_is_none_is_not_chosen(samples: list[Sample]) -> None:
    bad = (Fixed("same", finished=False), Fixed("same", failure="refused"), Fixed(" "))
    assert chosen(samples, *bad, Fixed("other"), can_score=False).teacher == "3"


def test_distributions_of_different_tokenizers_are_refused(
    screens: Path, samples: list[Sample], tiny_model: Path, tmp_path: Path
) -> None:
    build_model(tiny_build(), ["other words than those of the screens"], 0, tmp_path / "m")
    made = mixture(tiny_model, tmp_path / "m", route={"shares": [1, 1]})
    session = made.open(screens, device="cpu")
    assert session.vocabulary_rows is None
    assert len(session.generate(samples[:4], Decoding(2))) == 4, "text is no matter of tokens"
    with pytest.raises(TeacherError, match="tokenizers are not the same") as raised:
        session.score(samples[:2], ["a", "b"])
    assert "label.signal" in str(raised.value)


def test_a_batch_is_mostly_of_one_teacher(samples: list[Sample]) -> None:
    from limbeck.teachers import batches_by_length

    class Own(Fixed):
        def expected_length(self, sample: Sample) -> int:
            return int(sample.id[-1])

    session = routed_teachers(["0", "1"], [Own("a"), Own("b")], number_of)
    batches = list(batches_by_length(session, samples, 4))
    mixed = [batch for batch in batches if len({number_of(s) for s in batch}) > 1]
    assert len(mixed) <= 1


def test_usage_is_summed_and_all_are_closed() -> None:
    closed: list[str] = []

    class Paid(Fixed):
        def usage(self) -> dict[str, float]:
            return {"requests": 2, "cost": 0.5}

        def close(self) -> None:
            closed.append(self.text)

    session = routed_teachers(["0", "1"], [Paid("a"), Paid("b")], number_of)
    assert session.usage() == {"requests": 4, "cost": 1.0}
    session.close()
    assert closed == ["a", "b"]


def test_whatever_a_session_can_be_asked_is_asked_of_the_members() -> None:
    """A method that is added to the protocol must not fall back to the base class here."""
    from limbeck.teachers import several

    asked = {name for name in vars(OpenTeacher) if not name.startswith("_")}
    of_one_model = {"linear_head", "features", "shape"}  # not among the capabilities
    by_others = {"left_of"}  # follows from `batched`
    for kind in (several._Routed, several._Every):
        own = {name for base in kind.__mro__[:2] for name in vars(base)}
        scored = {"score"} if kind is several._Every else set()
        assert asked - of_one_model - by_others - scored <= own
    assert (
        not {"hidden_states", "inner_states"}
        & mixture(Path("a"), Path("b"), route={"shares": [1, 1]}).capabilities()
    )


def test_a_batch_is_asked_as_a_whole_where_one_member_pads_it(samples: list[Sample]) -> None:
    class Served(Fixed):
        batched = False

    done = {samples[0].id}
    for members, left in (([Served("a"), Served("b")], 1), ([Served("a"), Fixed("b")], 2)):
        session = every_teacher(["0", "1"], members, can_score=False)
        assert [len(b) for b in session.left_of([samples[:2], samples[:1]], done)] == [left]

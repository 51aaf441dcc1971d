"""The nouns that stages exchange.

Tensor names carry their shape as a suffix:

    B  samples in a batch        L  tokens of a padded sequence
    N  supervised tokens         V  shared vocabulary           H  hidden width
    K  kept tokens of a top-k    T  stored temperatures
    M  the teacher's own supervised tokens, where its tokenizer is another
    n  supervised tokens of one sample
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import Tensor

IGNORED = -100
"""A label that is not scored."""

Part = dict[str, Any]
"""One part of a message: `{"type": "text", "text": ...}` or `{"type": "image"}`."""

Message = dict[str, Any]
"""`{"role": "system" | "user" | "assistant", "content": [Part, ...]}`, content always a list."""


@dataclass(frozen=True)
class ImageFile:
    """One picture of a sample, as stored by the data stage.

    `path` is relative to the data stage's folder; width and height (pixels) are those after the
    EXIF orientation was applied.
    """

    path: str
    sha256: str
    width: int
    height: int


@dataclass(frozen=True)
class Sample:
    """One task for a model: a prompt with its images, and what people would answer.

    `messages` ends before the answer; its image parts stand in the order of `images`.
    `references` holds any number of gold answers, the first being the one trained on.
    """

    id: str
    split: str
    messages: tuple[Message, ...]
    images: tuple[ImageFile, ...] = ()
    references: tuple[str, ...] = ()
    metadata: dict[str, Any] = field(default_factory=lambda: {})


@dataclass(frozen=True)
class Label:
    """A teacher's answer to one sample, with the reasons that make it unfit if it is not `valid`.

    `tokens` counts the answer with its end token; `finished` is False when the limit cut it;
    `mean_log_probability` is over the answer's tokens at T = 1, where it is known; `teacher` names
    the one of several that answered; `agreement` is with the other answers to the sample, where
    there were any; `gold` says that the text is the first reference and not the teacher's.
    """

    sample_id: str
    text: str
    valid: bool
    reasons: tuple[str, ...] = ()
    tokens: int = 0
    finished: bool = True
    mean_log_probability: float | None = None
    teacher: str | None = None
    agreement: float | None = None
    gold: bool = False


@dataclass(frozen=True)
class Dense:
    """A teacher's whole distribution: raw logits over the shared vocabulary."""

    logits_NV: Tensor

    def __len__(self) -> int:
        return self.logits_NV.shape[0]


@dataclass(frozen=True)
class TopK:
    """A teacher's k most probable tokens, exact at every stored temperature.

    `logp_NK` are log-probabilities at T = 1 over the whole shared vocabulary. `log_sums_NT[:, t]`
    is log sum_v exp(logp_v / T_t) over the whole vocabulary, so that the probability of a kept
    token at T_t is exp(logp / T_t - log_sum_t), and the mass that was not kept is known.
    `log_tails_NT` is the logarithm of that mass, where it was summed by itself: 1 - (the kept) is
    lost in rounding where the teacher is certain. The order of a row's tokens means nothing.
    """

    ids_NK: Tensor
    logp_NK: Tensor
    log_sums_NT: Tensor
    temperatures: tuple[float, ...]
    log_tails_NT: Tensor | None = None

    def __len__(self) -> int:
        return self.ids_NK.shape[0]


@dataclass(frozen=True)
class Unaligned:
    """A teacher with another tokenizer: its rows are not the student's, spans of text are shared.

    A span is a piece of the answers that begins and ends where both tokenizers cut; spans are
    numbered 0 to `spans - 1` over the micro-batch, and each holds a token of either side or more.

    Attributes:
        signal: the teacher on its own M supervised rows, over its own vocabulary.
        answer_ids_M: the tokens that these rows predict, as columns of that vocabulary.
        teacher_spans_M: the span of each of the teacher's rows, never decreasing.
        student_spans_N: the span of each of the student's rows, never decreasing.
        spans: how many there are.
        teacher_tokens: size of the teacher's vocabulary.
    """

    signal: Dense | TopK
    answer_ids_M: Tensor
    teacher_spans_M: Tensor
    student_spans_N: Tensor
    spans: int
    teacher_tokens: int


AlignedSignal = Dense | TopK
"""A signal whose rows are the student's rows."""

TeacherSignal = AlignedSignal | Unaligned
"""What a loss learns about the teacher; where it came from is somebody else's business."""


@dataclass(frozen=True)
class AnswerSize:
    """How much there is to score in some answers.

    `tokens` are the student's, end of turn included; `spans` are those of an `Unaligned` signal,
    and as many as tokens where the teacher's rows line up with the student's. `samples` counts the
    answers, `pictured` those of them that have pictures.
    """

    tokens: int
    spans: int
    samples: int = 1
    pictured: int = 1


Grid = tuple[int, int, int]
"""Time, height and width of a picture, in visual tokens."""


@dataclass(frozen=True)
class Tap:
    """A place inside a model where its states are read.

    Attributes:
        kind: "hidden" is what a layer of the language model makes of the tokens that predict the
            answer [n, H]; "attention" its weights from those tokens to `keys`, averaged over heads
            [n, keys]; "vision" the features of the sample's pictures [visual tokens, H].
        layer: of the language model, from 0.
        place: of "attention": its keys, "vision" or "text" (all but the visual tokens); of
            "vision": "projector", what the language model gets, or "tower", what the vision
            tower's last layer makes.
    """

    kind: Literal["hidden", "attention", "vision"]
    layer: int = 0
    place: str = ""


@dataclass(frozen=True)
class ModelShape:
    """What has to be known of a model before its states are compared: layers and widths."""

    layers: int
    hidden_width: int
    tower_width: int

    def width(self, tap: Tap) -> int:
        """Width of what a tap gives; attention weights have none."""
        return self.tower_width if tap.place == "tower" else self.hidden_width


@dataclass(frozen=True)
class Features:
    """What a model's taps gave on a micro-batch: for each tap a tensor a sample.

    `grids` holds for each sample those of its pictures; None where the family does not say.
    """

    tensors: Mapping[Tap, tuple[Tensor, ...]]
    grids: tuple[tuple[Grid, ...] | None, ...]

    def only(self, taps: Sequence[Tap]) -> Features:
        """What these taps gave, in their order."""
        return Features({tap: self.tensors[tap] for tap in taps}, self.grids)


@dataclass
class StudentView:
    """What a loss may look at: the student on the N supervised rows of a micro-batch.

    `head` maps hidden states [N, H] to logits [N, V] over the shared vocabulary; `features` are the
    inner states that some loss has taps for.
    """

    labels_N: Tensor
    hidden_NH: Tensor
    head: Callable[[Tensor], Tensor]
    features: Features = field(default_factory=lambda: Features({}, ()))

    @cached_property
    def logits_NV(self) -> Tensor:
        """Logits over the shared vocabulary, float32 [N, V], computed once for all losses."""
        return self.head(self.hidden_NH).float()


@dataclass(frozen=True)
class LinearHead:
    """A language head on N rows as a sum of linear maps: logits = sum_i x_i W_i^T + bias.

    `terms` holds x_i [N, H_i] and W_i [R, H_i]: the head's own, and one more for each low-rank
    adapter on it. Of the R rows (tokens) those from `first` on, `size` in number, are shared.
    """

    terms: tuple[tuple[Tensor, Tensor], ...]
    bias_R: Tensor | None
    first: int
    size: int


@dataclass(frozen=True)
class LossTerm:
    """A loss before it is averaged: the loop divides the sum once, by the step's count."""

    sum: Tensor
    count: int


@dataclass(frozen=True)
class Prediction:
    """One model's answer to one sample, kept before anything is scored."""

    sample_id: str
    model: str
    text: str
    new_tokens: int
    finished: bool = True


@dataclass(frozen=True)
class Score:
    """One metric of one model over n samples with its confidence interval (bootstrap)."""

    model: str
    metric: str
    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Measurement:
    """One benchmarked quantity of one model.

    `regime` says under which conditions (for example `fixed_length/batch_1`); low and high are
    the spread named by `spread` (for example `p5-p95`).
    """

    model: str
    regime: str
    name: str
    value: float
    unit: str
    n: int
    low: float | None = None
    high: float | None = None
    spread: str | None = None

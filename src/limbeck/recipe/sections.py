"""The recipe's sections that are not components: models, labels, training, evaluation, benchmark.

Nothing here loads torch. Sizes and units are in the names; every field is read somewhere.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, cast

from pydantic import AfterValidator, Field, SerializeAsAny, model_validator

from limbeck.recipe.component import Component, Section, Seed, component_field
from limbeck.recipe.judging import Judge as Judge
from limbeck.recipe.labelling import Checks as Checks
from limbeck.recipe.labelling import Labelling as Labelling
from limbeck.recipe.labelling import SharePrefix

MetricField = Annotated[SerializeAsAny[Component], component_field("limbeck.metrics", "kind")]
_METRICS: Any = ("rouge_l", "bleu", "chrf", "cider_d", "exact_match", "token_f1")
Beta = Annotated[float, Field(ge=0, lt=1)]
PartName = Literal["vision_tower", "projector", "language_model", "head"]


class Build(Section):
    """A model made from a configuration with random weights, and a tokenizer trained on the data.

    Two builds with the same `tokenizer_*` fields on the same data share one tokenizer.
    """

    family: str = Field(description="a file in limbeck/models, e.g. qwen2_vl")
    hidden_size: int = Field(default=128, gt=0, description="width of the language model")
    layers: int = Field(default=4, gt=0, description="of the language model")
    heads: int = Field(default=4, gt=0, description="attention heads of the language model")
    key_value_heads: int = Field(default=2, gt=0, description="shared by groups of heads")
    intermediate_size: int = Field(
        default=256, gt=0, description="width of the feed-forward layers"
    )
    vision_hidden_size: int = Field(default=96, gt=0, description="width of the vision tower")
    vision_layers: int = Field(default=3, gt=0, description="of the vision tower")
    vision_heads: int = Field(default=4, gt=0, description="attention heads of the vision tower")
    patch_size: int = Field(default=16, gt=0, description="pixels per side of a vision patch")
    context_tokens: int = Field(default=1024, gt=0, description="longest prompt with answer")
    tokenizer: Literal["word", "bpe"] = Field(
        default="word", description="whole words, or byte-level BPE"
    )
    tokenizer_vocabulary: int = Field(default=512, ge=64, description="upper bound, tokens")
    vocabulary_rows: int | None = Field(
        default=None, description="rows of the embedding, padded beyond the tokenizer as Qwen does"
    )
    image_mean: float = Field(default=0.5, description="subtracted from pixels in 0..1")
    image_std: float = Field(default=0.5, gt=0, description="divides them then")


class Compose(Section):
    """A new model from a vision encoder and a language model, joined by a fresh projector.

    The result is a real `LlavaForConditionalGeneration`; both parts are hub ids or folders.
    """

    vision: str = Field(description="vision encoder")
    language: str = Field(description="language model")
    vision_revision: str | None = Field(
        default=None, description="branch, tag or commit on the hub"
    )
    language_revision: str | None = Field(
        default=None, description="branch, tag or commit on the hub"
    )
    feature_layer: int = Field(default=-2, description="vision layer whose features are projected")
    chat_template: str | None = Field(
        default=None, description="needed where the tokenizer has none"
    )


class ModelSection(Section):
    """Which model, and how it is loaded. Exactly one of `model`, `build` and `compose`."""

    origins: ClassVar[tuple[str, ...]] = ("model", "build", "compose")
    """Fields that say where the weights come from; exactly one is given."""

    model: str | None = Field(default=None, description="hub id or a folder in Hugging Face layout")
    revision: str | None = Field(default=None, description="branch, tag or commit on the hub")
    build: Build | None = Field(default=None, description="random weights from a configuration")
    compose: Compose | None = Field(
        default=None, description="a vision encoder and a language model, joined"
    )
    trust_remote_code: bool = Field(default=False, description="needs a pinned revision")
    dtype: Literal["float32", "bfloat16", "float16", "auto"] = Field(
        default="auto", description="of the weights; auto: as stored"
    )
    quantization: Literal["none", "int8", "nf4"] = Field(
        default="none", description="by bitsandbytes"
    )
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2"] = Field(
        default="auto", description="kernel; auto: transformers' choice"
    )
    min_pixels: int | None = Field(
        default=None, gt=0, description="per image, before the processor"
    )
    max_pixels: int | None = Field(
        default=None, gt=0, description="per image, before the processor"
    )
    context_tokens: int | None = Field(
        default=None, gt=0, description="longest prompt with answer; default: the model's own limit"
    )
    adapter_path: str | None = Field(
        default=None,
        description="folder with a peft adapter, merged when the weights are read (beside them "
        "where they are quantised)",
    )

    @model_validator(mode="after")
    def _one_source(self) -> ModelSection:
        given = [name for name in self.origins if getattr(self, name) is not None]
        if len(given) != 1:
            choices = ", ".join(self.origins)
            raise ValueError(f"needs exactly one of {choices} (has {given or 'none'})")
        if self.trust_remote_code and not _is_commit(self.revision):
            raise ValueError("trust_remote_code needs revision: <commit hash of 40 digits>")
        if self.min_pixels and self.max_pixels and self.min_pixels > self.max_pixels:
            raise ValueError("min_pixels is above max_pixels")
        return self


class Adapter(Section):
    """Low-rank adapters on the language model (Hu et al. 2021), by peft."""

    kind: Literal["lora", "dora"] = Field(
        default="lora",
        description="dora splits each weight into size and direction (Liu et al. 2024)",
    )
    rank: int = Field(default=16, gt=0, description="of the added matrices")
    alpha: float | None = Field(default=None, gt=0, description="default: twice the rank")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="on the adapters' input")
    targets: tuple[str, ...] | Literal["all_linear"] = Field(
        default="all_linear",
        description="names of linear layers; all_linear: all of the language model's",
    )
    parts: tuple[PartName, ...] = Field(
        default=("language_model",), description="where adapters go"
    )


class KeptLayers(Section):
    """Which layers a student keeps of its teacher: a rule with a count, or a list."""

    rule: Literal["first", "spread", "influence"] = Field(
        default="first",
        description="spread: at equal distances; influence: those that change most of what passes",
    )
    count: int | None = Field(default=None, gt=0, description="of layers that are kept")
    listed: tuple[Annotated[int, Field(ge=0)], ...] | None = Field(
        default=None, min_length=1, description="their numbers from 0, instead of rule and count"
    )

    @model_validator(mode="after")
    def _one_way(self) -> KeptLayers:
        if (self.count is None) == (self.listed is None):
            raise ValueError("needs exactly one of count and listed")
        if self.listed is not None and sorted(set(self.listed)) != list(self.listed):
            raise ValueError("listed layers have to increase")
        return self


class Inherit(Section):
    """A student of the teacher's own layers, with their weights; what is null is kept whole."""

    language: KeptLayers | None = Field(default=None, description="layers of the language model")
    vision: KeptLayers | None = Field(default=None, description="layers of the vision tower")
    samples: int = Field(
        default=32, gt=0, description="training samples on which influence is measured"
    )


class Student(ModelSection):
    """The model that is trained: with adapters, or in full but for the frozen parts."""

    origins: ClassVar = (*ModelSection.origins, "inherit")

    inherit: Inherit | None = Field(default=None, description="layers of the teacher")
    adapter: Adapter | None = Field(default=None, description="default: trained in full")
    freeze: tuple[PartName, ...] = Field(default=(), description="parts that are not trained")


def _exact(value: Any) -> Any:
    return "exact" if value is True else value


VisionCoding = Annotated[Literal[False, True, "exact", "int8"], AfterValidator(_exact)]


class OnPolicy(Section):
    """How the student writes the answers that losses with `target: student` are computed on."""

    fraction: float = Field(
        default=1.0, gt=0, le=1, description="share of a step's samples that it answers itself"
    )
    temperature: float = Field(default=1.0, ge=0, description="of its sampling; 0 is greedy")
    max_new_tokens: int = Field(default=128, gt=0, description="limit of an answer")
    refresh_every: int = Field(
        default=1, gt=0, description="steps whose answers are written at once, before the first"
    )


class Training(Section):
    """How a model is trained; the same section trains the student and fine-tunes the teacher."""

    steps: int | None = Field(default=None, gt=0, description="optimiser steps; else from epochs")
    epochs: float | None = Field(default=None, gt=0, description="passes over the labelled samples")
    samples_per_step: int | None = Field(default=None, gt=0, description="over all ranks")
    tokens_per_step: int | None = Field(
        default=None, gt=0, description="supervised answer tokens a step, over all ranks"
    )
    samples_per_micro_batch: int = Field(
        default=8, gt=0, description="samples that a device holds at once"
    )
    optimizer: Literal["adamw", "muon"] = Field(
        default="adamw", description="muon: Muon on 2-D weights, AdamW on the rest"
    )
    learning_rate: float = Field(
        default=1e-4, gt=0, description="peak; with muon that of AdamW's share"
    )
    muon_learning_rate: float = Field(default=3e-3, gt=0, description="only with optimizer: muon")
    weight_decay: float = Field(default=0.01, ge=0, description="decoupled")
    betas: tuple[Beta, Beta] = Field(default=(0.9, 0.999), description="of AdamW")
    schedule: Literal["cosine", "linear", "constant"] = Field(
        default="cosine", description="after the warm-up"
    )
    warmup: float = Field(default=0.03, ge=0, lt=1, description="share of all steps")
    final_learning_rate: float = Field(
        default=0.0, ge=0, le=1, description="share of the peak at the end"
    )
    clip_norm: float | None = Field(
        default=1.0, gt=0, description="largest norm of a step's gradient; null: none"
    )
    precision: Literal["bf16", "fp32"] = Field(
        default="bf16", description="bf16: autocast, weights stay as loaded"
    )
    gradient_checkpointing: bool = Field(
        default=False, description="recompute activations to save memory"
    )
    cache_vision_features: VisionCoding = Field(
        default=False,
        description="run a frozen vision tower and projector once a picture, not in every step; "
        "true means exact: as computed; int8: half of bf16's disk, coding error measured",
    )
    head_gradient_tolerance: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="leave the tokens that together hold less than this share squared of the "
        "logits' squared gradient out of the head's weight gradient, e.g. 0.003; null: exact",
    )
    share_prefix: SharePrefix = False
    checkpoint_every: int = Field(default=200, gt=0, description="steps")
    non_finite: Literal["stop", "skip"] = Field(
        default="stop",
        description="a NaN or infinite loss or gradient: end the run, or leave the step out",
    )
    max_skipped: int = Field(
        default=10, ge=0, description="skipped steps before a run stops anyway"
    )
    workers: int = Field(default=0, ge=0, description="processes that prepare samples")
    log_every: int = Field(default=10, gt=0, description="steps between rows of metrics.jsonl")
    tracker: Literal["none", "trackio", "wandb", "tensorboard"] = Field(
        default="none", description="where metrics go besides metrics.jsonl"
    )
    on_policy: OnPolicy = Field(
        default=OnPolicy(), description="only where a loss has `target: student`"
    )

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        given = dict(cast("dict[str, Any]", value))
        if given.get("steps") is None and given.get("epochs") is None:
            given["epochs"] = 3
        if given.get("samples_per_step") is None and given.get("tokens_per_step") is None:
            given["samples_per_step"] = 16
        return given

    @model_validator(mode="after")
    def _one_of_each(self) -> Training:
        if self.steps is not None and self.epochs is not None:
            raise ValueError("steps and epochs exclude one another")
        if self.samples_per_step is not None and self.tokens_per_step is not None:
            raise ValueError("samples_per_step and tokens_per_step exclude one another")
        return self


class FineTune(Section):
    """Fine-tuning of the teacher on the gold answers before it labels."""

    training: Training = Field(default=Training(), description="how")
    adapter: Adapter | None = Field(default=None, description="default: in full")
    freeze: tuple[PartName, ...] = Field(default=(), description="parts that are not trained")
    split: str = Field(default="train", description="whose gold answers")
    limit: int | None = Field(default=None, gt=0, description="samples")
    seed: Seed = Field(default=0, description="of order and dropout")


class Evaluation(Section):
    """Which models answer which samples, and how the answers are scored."""

    split: str = Field(default="test", description="whose samples are answered")
    limit: int | None = Field(default=None, gt=0, description="samples")
    models: tuple[str, ...] = Field(
        default=("teacher", "student", "baseline", "control"),
        description="arms: teacher, student, baseline, control, those of `arms`; floors: any of "
        "them with _blanked after it (pictures blanked), most_frequent (answer in training), "
        "nearest_neighbour (answer of the nearest training picture)",
    )
    neighbour_features: Literal["auto", "teacher", "baseline"] = Field(
        default="auto",
        description="whose vision tower says which picture is nearest, for nearest_neighbour; "
        "auto: the teacher's where it runs here as one model",
    )
    fidelity: bool = Field(
        default=False,
        description="measure token agreement with the teacher and KL divergence from it along its "
        "answers: each compared model reads them once; needs a teacher that scores answers",
    )
    metrics: tuple[MetricField, ...] = Field(
        default=_METRICS,
        min_length=1,
        description="files in limbeck/metrics",
    )
    max_new_tokens: int = Field(default=128, gt=0, description="limit of an answer")
    batch_size: int = Field(default=8, gt=0, description="samples answered at once")
    share_prefix: SharePrefix = False
    workers: int = Field(default=0, ge=0, description="processes that prepare pictures")
    bootstrap: int = Field(default=1000, ge=100, description="resamples")
    confidence: float = Field(default=0.95, gt=0.5, lt=1, description="level of the intervals")
    seed: Seed = Field(default=0, description="of the bootstrap")
    judge: Judge | None = Field(default=None, description="a model that judges the answers")


class Benchmark(Section):
    """How the evaluated models are timed, each in a process of its own."""

    split: str = Field(default="test", description="whose images are used")
    models: tuple[str, ...] | None = Field(default=None, description="default: those evaluated")
    batch_sizes: tuple[Annotated[int, Field(gt=0)], ...] = Field(
        default=(1, 8), min_length=1, description="each is measured"
    )
    new_tokens: int = Field(default=32, gt=0, description="generated in the fixed-length regime")
    max_new_tokens: int = Field(default=128, gt=0, description="limit in the natural-length regime")
    samples: int = Field(
        default=16, gt=0, description="images of the data set that are cycled through"
    )
    repeats: int = Field(default=3, gt=0, description="passes over those samples")
    warmup: int = Field(default=2, ge=0, description="generations before the first counted one")
    threads: int | None = Field(default=None, gt=0, description="CPU threads; default: torch's")


class ReportSection(Section):
    """What the report shows."""

    headline: str | None = Field(
        default=None, description="metric of the verdict; default: the first"
    )
    gallery: int = Field(default=200, ge=0, description="samples shown with their images")
    licences: dict[Literal["data", "teacher", "student"], str] = Field(
        default={}, description="shown and carried into the model card; default: what is recorded"
    )


def _is_commit(revision: str | None) -> bool:
    return bool(revision) and len(revision) == 40 and set(revision) <= set("0123456789abcdef")

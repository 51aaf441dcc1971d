"""From a sample to token ids, pixel tensors and an answer mask: the one place that does it.

The prompt is rendered with the model's own chat template. Only answer tokens, the end-of-turn token
among them, are supervised, and `collate` is the one place where targets are shifted. Nothing here
looks at the padding token's id to decide what counts, so pad == end of turn does no harm.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limbeck.data.images import blank_image, fit_pixels, open_image
from limbeck.data.processor import image_token_id, set_budget
from limbeck.errors import DataError, UsageError
from limbeck.records import IGNORED, Message, Sample
from limbeck.store import canonical_json

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

_ANSWER = "limbeckanswer"
_KEPT_PROMPTS = 4096


@dataclass(frozen=True)
class Encoded:
    """One sample as one model sees it.

    `input_ids_L` holds prompt and answer; `aligned` are further tensors [L] (such as token types);
    `features` are the pixel tensors as the processor made them for this sample alone.
    """

    input_ids_L: Tensor
    answer_start: int
    aligned: dict[str, Tensor] = field(default_factory=lambda: {})
    features: dict[str, Tensor] = field(default_factory=lambda: {})
    visual_tokens: int = 0

    @property
    def answer_ids(self) -> Tensor:
        """The supervised tokens: the answer with its end-of-turn token; empty without answer."""
        return self.input_ids_L[self.answer_start :]

    def without_answer(self) -> Encoded:
        """The prompt alone, as generation needs it."""
        start = self.answer_start
        aligned = {name: tensor_L[:start] for name, tensor_L in self.aligned.items()}
        return Encoded(self.input_ids_L[:start], start, aligned, self.features, self.visual_tokens)

    def with_answer(self, answer_ids: Sequence[int]) -> Encoded:
        """The same prompt and pictures with another answer."""
        import torch

        prompt = self.without_answer()
        answer_L = torch.tensor(answer_ids, dtype=prompt.input_ids_L.dtype)
        aligned = {
            name: torch.cat([tensor_L, tensor_L.new_zeros(len(answer_ids))])
            for name, tensor_L in prompt.aligned.items()
        }
        ids_L = torch.cat([prompt.input_ids_L, answer_L])
        return Encoded(ids_L, self.answer_start, aligned, self.features, self.visual_tokens)


@dataclass(frozen=True)
class Batch:
    """Padded model inputs, and for each position the answer token that it is to predict.

    `targets_BL[b, t]` is token t + 1 of sample b where that is an answer token, else IGNORED.
    """

    inputs: dict[str, Tensor]
    targets_BL: Tensor

    @property
    def supervised_tokens(self) -> int:
        """How many positions are scored."""
        return int((self.targets_BL != IGNORED).sum())

    def to(self, device: Any) -> Batch:
        """The same batch on a device; where the memory is pinned, without waiting for the copy."""

        def moved(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=tensor.is_pinned())

        inputs = {name: moved(tensor) for name, tensor in self.inputs.items()}
        return Batch(inputs, moved(self.targets_BL))

    def pin_memory(self) -> Batch:
        """The same batch in memory that a GPU reads by itself."""
        inputs = {name: tensor.pin_memory() for name, tensor in self.inputs.items()}
        return Batch(inputs, self.targets_BL.pin_memory())


class Encoder:
    """Turns samples into `Encoded` for one processor.

    Args:
        processor: a transformers processor with its tokenizer; it is kept, and where it budgets
            pixels itself (the Qwen families) the budget is set on it, so that it is saved with it.
        config: the model's configuration.
        min_pixels, max_pixels: visual budget of each picture; None leaves the processor's own.
        context_tokens: longest prompt with answer; None takes the model's number of positions.
    """

    def __init__(
        self,
        processor: Any,
        *,
        config: Any,
        min_pixels: int | None = None,
        max_pixels: int | None = None,
        context_tokens: int | None = None,
    ) -> None:
        self.processor, self.tokenizer = processor, processor.tokenizer
        own = getattr(processor, "chat_template", None)
        self._template = None if own else self.tokenizer.chat_template
        if not (own or self._template):
            raise UsageError(
                "the model has no chat template",
                where=str(self.tokenizer.name_or_path),
                mend="use an instruction-tuned model, or add chat_template.jinja to its folder",
            )
        positions = getattr(config.get_text_config(), "max_position_embeddings", None)
        self.context_tokens: int | None = context_tokens or positions
        self.image_token_id = image_token_id(config, processor)
        self.min_pixels, self.max_pixels = min_pixels, max_pixels
        self.resizes_itself = set_budget(processor.image_processor, min_pixels, max_pixels)
        self._prompts: dict[str, str] = {}
        self._answer_prefix, self.end_ids = turn_frame(self.tokenizer, self._apply)

    @property
    def pad_id(self) -> int:
        """What `collate` fills up with; attention never sees it."""
        pad = self.tokenizer.pad_token_id
        return self.end_ids[-1] if pad is None else pad

    def render(self, messages: Sequence[Message], *, where: str | None = None) -> str:
        """The prompt's text, up to where the model's answer begins.

        Raises:
            DataError: the model's chat template refuses these messages.
        """
        key = canonical_json(list(messages))
        if key not in self._prompts:
            if len(self._prompts) >= _KEPT_PROMPTS:
                self._prompts.clear()
            try:
                self._prompts[key] = self._apply(list(messages), True)
            except _template_errors() as error:
                raise DataError(
                    f"the model's chat template refuses the messages ({error})", where=where
                ) from error
        return self._prompts[key]

    @property
    def answer_prefix(self) -> str:
        """White space that the template has between the prompt and an answer."""
        return self._answer_prefix

    def answer_tokens(self, answer: str) -> list[int]:
        """Ids of an answer with its end of turn; markers in the text are only text."""
        return answer_tokens(self.tokenizer, self._answer_prefix, answer, self.end_ids)

    def answer_text(self, token_ids: Sequence[int]) -> str:
        """The text of generated ids, without special tokens; undoes `answer_tokens`."""
        text = self.tokenizer.decode(token_ids, skip_special_tokens=True)
        return text.removeprefix(self._answer_prefix)

    def encode(
        self,
        sample: Sample,
        data_folder: Path,
        answer: str | None,
        *,
        blank_images: bool = False,
    ) -> Encoded:
        """One sample's prompt, pictures and (unless None) answer.

        Args:
            sample: its image paths are relative to `data_folder`.
            data_folder: the data stage's folder.
            answer: what is supervised; None for generation.
            blank_images: replace every picture by grey of the same size.

        Raises:
            DataError: a broken picture, placeholders that do not match the pictures, or more tokens
                than the context holds; nothing is ever cut.
        """
        import torch

        images = self.pictures(sample, data_folder, blank_images=blank_images)
        outputs = dict(self._process(self.render(sample.messages, where=sample.id), images, sample))
        prompt_1L, mask_1L = outputs.pop("input_ids"), outputs.pop("attention_mask")
        assert bool(mask_1L.all()), "a single prompt has no padding"
        answer_ids = [] if answer is None else self.answer_tokens(answer)
        answer_L = torch.tensor(answer_ids, dtype=prompt_1L.dtype)
        aligned, features = {}, {}
        for name, tensor in outputs.items():
            if tensor.shape == prompt_1L.shape:
                aligned[name] = torch.cat([tensor[0], tensor.new_zeros(len(answer_ids))])
            else:
                features[name] = tensor
        encoded = Encoded(
            input_ids_L=torch.cat([prompt_1L[0], answer_L]),
            answer_start=prompt_1L.shape[1],
            aligned=aligned,
            features=features,
            visual_tokens=int((prompt_1L == self.image_token_id).sum()),
        )
        self.check_context(encoded, sample)
        return encoded

    def pictures(
        self, sample: Sample, data_folder: Path, *, blank_images: bool = False
    ) -> list[Image]:
        """A sample's pictures as the processor is to get them: upright, RGB, in the budget."""
        images = [self._picture(sample, data_folder, n) for n in range(len(sample.images))]
        return [blank_image(image) for image in images] if blank_images else images

    def prompt_tokens(self, sample: Sample) -> list[int]:
        """Ids of the prompt's text, with one placeholder for each picture."""
        text = self.render(sample.messages, where=sample.id)
        return self.tokenizer(text, add_special_tokens=self._adds_special_tokens(text))["input_ids"]

    def _adds_special_tokens(self, text: str) -> bool:
        bos = self.tokenizer.bos_token
        return not (bos and text.startswith(bos))

    def _picture(self, sample: Sample, data_folder: Path, number: int) -> Image:
        image = open_image(data_folder / sample.images[number].path, where=sample.id)
        if self.resizes_itself:
            return image
        return fit_pixels(image, self.min_pixels, self.max_pixels)

    def _process(self, text: str, images: list[Image], sample: Sample) -> Any:
        try:
            return self.processor(
                text=[text],
                images=[images] if images else None,
                add_special_tokens=self._adds_special_tokens(text),
                return_tensors="pt",
            )
        except ValueError as error:  # what processors raise for placeholders and for odd shapes
            raise DataError(
                f"the model's processor refuses the sample ({error})", where=sample.id
            ) from error

    def check_context(self, encoded: Encoded, sample: Sample) -> None:
        """Refuse what the model's context does not hold.

        Raises:
            DataError: names the sample, its tokens and the limit.
        """
        tokens, limit = len(encoded.input_ids_L), self.context_tokens
        if limit is not None and tokens > limit:
            raise DataError(
                f"prompt and answer have {tokens} tokens, {encoded.visual_tokens} of them visual,"
                f" and the context holds {limit}",
                where=sample.id,
                mend="lower max_pixels, or raise context_tokens if the model can take more",
            )

    def _apply(self, messages: list[Message], prompt: bool) -> str:
        return self.processor.apply_chat_template(
            messages, chat_template=self._template, add_generation_prompt=prompt, tokenize=False
        )


def turn_frame(
    tokenizer: Any, apply: Callable[[list[Message], bool], str]
) -> tuple[str, list[int]]:
    """White space before an answer, and what ends it, as the chat template has them.

    A space is left out where the tokenizer itself puts one before every text. The end is the
    first special token that the template writes after an answer, or the tokenizer's end of
    sequence where it writes none.

    Args:
        tokenizer: a transformers tokenizer.
        apply: renders messages with the template, with or without the beginning of an answer.

    Raises:
        UsageError: nothing says how an answer ends.
    """

    def ids_of(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    question = {"role": "user", "content": [{"type": "text", "text": "?"}]}
    prefix, after = "", ""
    for content in ([{"type": "text", "text": _ANSWER}], _ANSWER):
        try:
            prompt = apply([question], True)
            whole = apply([question, {"role": "assistant", "content": content}], False)
        except _template_errors():
            continue
        before, found, after = whole.partition(_ANSWER)
        if found:
            between = before.removeprefix(prompt) if before.startswith(prompt) else ""
            by_itself = ids_of(before.removesuffix(between)) + ids_of(_ANSWER)
            if between.isspace() and ids_of(before + _ANSWER) != by_itself:
                prefix = between
            break
    special = set(tokenizer.all_special_ids)
    ids = ids_of(after) if after else []
    end = next((token for token in ids if token in special), tokenizer.eos_token_id)
    if end is None:
        raise UsageError(
            "neither the chat template nor the tokenizer says how an answer ends",
            where=str(tokenizer.name_or_path),
        )
    return prefix, [end]


def answer_tokens(tokenizer: Any, prefix: str, text: str, end_ids: Sequence[int]) -> list[int]:
    """Ids of an answer with its end of turn; markers in the text are only text."""
    options = {"add_special_tokens": False, "split_special_tokens": True}
    return [*tokenizer(prefix + text, **options)["input_ids"], *end_ids]


def expected_prompt_tokens(sample: Sample) -> int:
    """A cheap estimate of a prompt's length, to batch like with like; opens no picture.

    Four characters a token, and 28 x 28 pixels a visual token, as in the Qwen families.
    """
    characters = sum(len(part.get("text", "")) for m in sample.messages for part in m["content"])
    return characters // 4 + sum(i.width * i.height for i in sample.images) // 784


def collate(items: Sequence[Encoded], *, pad_id: int, side: str) -> Batch:
    """Pad samples to one length; `side` is "right" for training and "left" for generation.

    Pixel tensors are padded with zeros to the largest of the batch and joined on their first
    dimension, which is what the families' processors do for a batch.
    """
    import torch

    assert side in ("left", "right"), side
    length = max(len(item.input_ids_L) for item in items)
    shape = (len(items), length)
    ids_BL = torch.full(shape, pad_id, dtype=torch.long)
    mask_BL = torch.zeros(shape, dtype=torch.long)
    targets_BL = torch.full(shape, IGNORED, dtype=torch.long)
    inputs = {"input_ids": ids_BL, "attention_mask": mask_BL}
    for b, item in enumerate(items):
        tokens = len(item.input_ids_L)
        first = length - tokens if side == "left" else 0
        row = slice(first, first + tokens)
        ids_BL[b, row], mask_BL[b, row] = item.input_ids_L, 1
        answers = item.answer_ids
        start = first + item.answer_start - 1  # the position that predicts the first answer token
        targets_BL[b, start : start + len(answers)] = answers
        for name, tensor_L in item.aligned.items():
            padded_BL = inputs.setdefault(name, torch.zeros(shape, dtype=tensor_L.dtype))
            padded_BL[b, row] = tensor_L
    return Batch({**inputs, **join_features(items)}, targets_BL)


def join_features(items: Sequence[Encoded]) -> dict[str, Tensor]:
    """The pixel tensors of several samples, as the families' processors make them for a batch."""
    names = dict.fromkeys(name for item in items for name in item.features)
    return {name: _join([i.features[name] for i in items if name in i.features]) for name in names}


def _join(tensors: list[Tensor]) -> Tensor:
    import torch
    from torch.nn.functional import pad

    largest = [max(sizes) for sizes in zip(*(t.shape[1:] for t in tensors), strict=True)]
    padded: list[Tensor] = []
    for tensor in tensors:
        missing = [big - own for big, own in zip(largest, tensor.shape[1:], strict=True)]
        amounts = [amount for size in reversed(missing) for amount in (0, size)]
        padded.append(pad(tensor, amounts) if any(amounts) else tensor)
    return torch.cat(padded)


def _template_errors() -> tuple[type[Exception], ...]:
    from jinja2 import TemplateError

    return (TemplateError, TypeError, KeyError, ValueError, AttributeError)

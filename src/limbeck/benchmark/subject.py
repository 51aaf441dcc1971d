"""The model under measurement: loaded as evaluation loads it, asked through the same calls."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from limbeck.benchmark.phases import LANGUAGE, PICTURES, VISION, Stopwatch
from limbeck.errors import UsageError
from limbeck.recipe.sections import ModelSection
from limbeck.records import Sample

if TYPE_CHECKING:
    from torch import BoolTensor, Tensor, nn

    from limbeck.data.tokens import Encoded
    from limbeck.models.load import LoadedModel

_PAGE_BYTES = 4096
_OTHER_WEIGHTS = {".bin", ".pt", ".pth", ".h5", ".msgpack", ".onnx", ".gguf", ".ckpt"}


class Subject:
    """A loaded model, ready to be measured.

    Args:
        section: which model, and how it is loaded.
        data: the data stage's folder, which holds the images.
        device: torch device name.
    """

    def __init__(self, section: ModelSection, data: Path, device: str) -> None:
        from limbeck.models.load import load_model

        self.loaded: LoadedModel = load_model(section, device=device)
        self._data, self._device = data, device
        self._on_token: Callable[[], None] = lambda: None
        self._watch_tokens()
        self._read_all_weights()
        self.synchronise()

    def encode(self, samples: Sequence[Sample]) -> list[Encoded]:
        """Images opened and sized, prompts rendered and tokenised."""
        return [self.loaded.encoder.encode(sample, self._data, None) for sample in samples]

    def generate(
        self,
        items: Sequence[Encoded],
        on_token: Callable[[], None],
        *,
        max_new_tokens: int,
        min_new_tokens: int | None = None,
    ) -> int:
        """Greedy answers; returns the count of new tokens, end tokens included.

        `on_token` is called as soon as the batch has each of its new tokens.
        """
        self._on_token = on_token
        answers = self.loaded.generate(
            items, max_new_tokens=max_new_tokens, min_new_tokens=min_new_tokens
        )
        return sum(len(answer.token_ids) for answer in answers)

    def synchronise(self) -> None:
        """Wait until the device has done what was asked of it."""
        import torch

        if self._device.startswith("cuda"):
            torch.cuda.synchronize(self._device)
        elif self._device == "mps":
            torch.mps.synchronize()

    @contextmanager
    def watched(self, watch: Stopwatch) -> Generator[None]:
        """Let a stopwatch know when pictures, vision tower and language model begin and end.

        Raises:
            UsageError: where a part of this model is, is not known.
        """
        towers, language = self._parts()
        encoder, plain = self.loaded.encoder, self.loaded.encoder.pictures

        def pictures(*args: Any, **kwargs: Any) -> Any:
            watch.begin(PICTURES)
            try:
                return plain(*args, **kwargs)
            finally:
                watch.end(PICTURES)

        def begins(part: str) -> Callable[..., None]:
            return lambda *_: watch.begin(part)

        with ExitStack() as hooks:
            for tower in towers:
                hooks.enter_context(tower.register_forward_pre_hook(begins(VISION)))
                hooks.enter_context(tower.register_forward_hook(lambda *_: watch.end(VISION)))
            hooks.enter_context(language.register_forward_pre_hook(begins(LANGUAGE)))
            encoder.pictures = pictures
            hooks.callback(delattr, encoder, "pictures")  # back to the class's own
            yield

    def _parts(self) -> tuple[list[nn.Module], nn.Module]:
        """Vision tower with projector, as the outermost modules of them, and language model."""
        base = self.loaded.base
        modules, parts = dict(base.named_modules()), self.loaded.family.parts(base)
        seen = [p for part in ("vision_tower", "projector") for p in parts.get(part, ())]
        outermost = [
            modules[path]
            for path in seen
            if path in modules and not any(path.startswith(f"{other}.") for other in seen)
        ]
        language = [modules[path] for path in parts.get("language_model", ()) if path in modules]
        if not (outermost and language):
            missing = "language model" if outermost else "vision tower"
            raise UsageError(f"the {missing} of a {type(base).__name__} was not found")
        return outermost, language[0]

    def describe(self) -> dict[str, Any]:
        """Precision, runtime and parameters (counted)."""
        import torch
        import transformers

        base, section = self.loaded.base, self.loaded.section
        attention = getattr(base.config, "_attn_implementation", None) or "of the model's own"
        precision = str(base.dtype).removeprefix("torch.")
        if section.quantization != "none":
            precision = f"{section.quantization}, computed in {precision}"
        return {
            "precision": precision,
            "runtime": f"transformers {transformers.__version__}, torch {torch.__version__}, "
            f"attention {attention}",
            "parameters": base.num_parameters(),
        }

    @property
    def weight_bytes(self) -> int:
        """Bytes of parameters and buffers, tied ones once."""
        return sum(tensor.nbytes for tensor in self._tensors())

    def _watch_tokens(self) -> None:
        """Hear of every new token: generation asks its stopping criteria right after each."""
        import torch
        from transformers import StoppingCriteria, StoppingCriteriaList

        subject = self

        class Watch(StoppingCriteria):
            never: BoolTensor | None = None  # kept, so that a step costs no allocation

            def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> BoolTensor:
                subject._on_token()
                if self.never is None or len(self.never) != len(input_ids):
                    never = torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
                    self.never = cast("BoolTensor", never)
                return self.never

        base = self.loaded.base
        base.generate = partial(base.generate, stopping_criteria=StoppingCriteriaList([Watch()]))

    def _read_all_weights(self) -> None:
        """Touch every page: weights are mapped from their file and only read at first use."""
        import torch

        if self._device == "cpu":
            with torch.no_grad():
                for tensor in self._tensors():
                    if tensor.is_contiguous():
                        tensor.view(-1).view(torch.uint8)[::_PAGE_BYTES].sum()

    def _tensors(self) -> list[Tensor]:
        base = self.loaded.base
        return list({id(t): t for t in chain(base.parameters(), base.buffers())}.values())


def model_files(section: ModelSection) -> list[Path]:
    """What has to be deployed: the model's files without weights in formats that are not read."""
    from limbeck.models.source import adapter_folder, model_folder

    assert section.model is not None
    folders = [model_folder(section.model, section.revision)]
    if section.adapter_path is not None:
        folders.append(adapter_folder(section.adapter_path))
    return [
        path
        for folder in folders
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix not in _OTHER_WEIGHTS and path.name[0] != "."
    ]

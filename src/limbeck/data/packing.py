"""Several prompts that begin alike, as one sequence that holds their beginning once.

    [pictures and common words][question 1, answer 1][question 2, answer 2] ...

Each question sees the beginning and itself, and its tokens keep the positions that they have in a
prompt of their own, so that every hidden state is the one that it would be there. (The other way,
the beginning's keys and values computed once and handed to every question, is what generation does;
in training it would rule out recomputed activations.)
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from limbeck.data.tokens import Batch, Encoded, join_features
from limbeck.records import IGNORED, Sample

if TYPE_CHECKING:
    from torch import Tensor

PADDING = -1
"""Owner of a position that holds nothing."""

PREFIX = 0
"""Owner of a position that all questions of a sequence share; the questions count from 1."""


@dataclass(frozen=True)
class Group:
    """Samples on the same pictures whose prompts have their first `shared` tokens in common.

    The last token of a prompt is never shared, since it predicts the answer's first. Of a sample
    that stands alone all others are "shared".
    """

    items: tuple[Encoded, ...]
    shared: int

    @property
    def tokens(self) -> int:
        """Length of the packed sequence."""
        return self.shared + sum(len(item.input_ids_L) - self.shared for item in self.items)

    @property
    def prefix(self) -> Encoded:
        """What is shared, as a prompt with its pictures."""
        first = self.items[0]
        aligned = {name: tensor_L[: self.shared] for name, tensor_L in first.aligned.items()}
        ids_L = first.input_ids_L[: self.shared]
        return Encoded(ids_L, self.shared, aligned, first.features, first.visual_tokens)


def pictures_of(sample: Sample) -> tuple[str, ...]:
    """Equal for samples that show the same pictures; a sample without any is its own kind."""
    return tuple(image.sha256 for image in sample.images) or (f"sample {sample.id}",)


def on_the_same_pictures(samples: Iterable[Sample], most: int = 3) -> list[Sample]:
    """The first few samples that show the same pictures; none where no two do."""
    found: dict[tuple[str, ...], dict[str, Sample]] = {}
    for sample in samples:
        if sample.images:
            found.setdefault(pictures_of(sample), {}).setdefault(sample.id, sample)
    several = (list(own.values()) for own in found.values() if len(own) > 1)
    return next(several, [])[:most]


def whole_groups(
    indices: Iterable[int],
    kind_of: Callable[[int], Hashable],
    lengths: Sequence[int],
    size: int,
) -> list[list[int]]:
    """Batches of at most `size` indices, the longest first; those of one kind stay together.

    Only a kind that has more than `size` is cut. `lengths` are looked up by index.
    """
    members: dict[Hashable, list[int]] = {}
    for index in indices:
        members.setdefault(kind_of(index), []).append(index)
    pieces = [own[s : s + size] for own in members.values() for s in range(0, len(own), size)]
    pieces.sort(key=lambda piece: (-max(lengths[i] for i in piece), piece[0]))
    batches: list[list[int]] = []
    for piece in pieces:
        if batches and len(batches[-1]) + len(piece) <= size:
            batches[-1] += piece
        else:
            batches.append(list(piece))
    return batches


def grouped(items: Sequence[Encoded], image_token_id: int | None) -> list[Group]:
    """Neighbours that share pictures and the beginning of their prompts; the order stays.

    Pixels (or cached features) are compared number by number, so that nothing but equality counts.
    All visual tokens have to be in what is shared: pictures that stand behind the question are not.
    """
    groups: list[Group] = []
    for item in items:
        group = Group((item,), item.answer_start - 1)
        if groups and (joined := _joined(groups[-1], item, image_token_id)):
            groups[-1] = joined
        else:
            groups.append(group)
    return groups


def is_shared(groups: Sequence[Group]) -> bool:
    """Whether any two samples have something in common."""
    return any(len(group.items) > 1 for group in groups)


def pack(groups: Sequence[Group], positions: Sequence[Tensor], pad_id: int) -> Batch:
    """One sequence a group, padded on the right; supervised rows are in the order of the samples.

    Args:
        groups: as `grouped` made them.
        positions: of every sample in turn [axes, tokens], as it would have them alone.
        pad_id: what the rest is filled with.

    Returns:
        A batch whose `attention_mask` is a table [B, 1, L, L], True where a token sees another, and
        with `position_ids` [B, L], or [axes, B, L] where there are several axes.
    """
    import torch

    axes = positions[0].shape[0]
    shape = (len(groups), max(group.tokens for group in groups))
    ids_BL = torch.full(shape, pad_id, dtype=torch.long)
    targets_BL = torch.full(shape, IGNORED, dtype=torch.long)
    owners_BL = torch.full(shape, PADDING, dtype=torch.long)
    positions_ABL = torch.zeros((axes, *shape), dtype=torch.long)
    inputs = {"input_ids": ids_BL}
    of_each = iter(positions)
    for b, group in enumerate(groups):
        end = 0
        for number, item in enumerate(group.items):
            start = group.shared if number else 0  # the first brings what is shared
            own = slice(start, len(item.input_ids_L))
            first, end = end, end + own.stop - start
            there = slice(first, end)
            ids_BL[b, there] = item.input_ids_L[own]
            owners_BL[b, there] = number + 1
            positions_ABL[:, b, there] = next(of_each)[:, own]
            predicting = first + item.answer_start - 1 - start
            targets_BL[b, predicting : predicting + len(item.answer_ids)] = item.answer_ids
            for name, tensor_L in item.aligned.items():
                padded_BL = inputs.setdefault(name, torch.zeros(shape, dtype=tensor_L.dtype))
                padded_BL[b, there] = tensor_L[own]
        owners_BL[b, : group.shared] = PREFIX
    inputs["attention_mask"] = _seen(owners_BL)
    inputs["position_ids"] = positions_ABL if axes > 1 else positions_ABL[0]
    features = join_features([group.items[0] for group in groups])
    return Batch({**inputs, **features}, targets_BL)


def _seen(owners_BL: Tensor) -> Tensor:
    """Who sees whom [B, 1, L, L]; padding sees itself, for a row of nothing has no softmax."""
    import torch

    length = owners_BL.shape[1]
    queries_BL1, keys_B1L = owners_BL[:, :, None], owners_BL[:, None, :]
    earlier_LL = torch.ones(length, length, dtype=torch.bool).tril()
    family_BLL = (keys_B1L == PREFIX) | (keys_B1L == queries_BL1)
    itself_LL = torch.eye(length, dtype=torch.bool)
    return (earlier_LL & family_BLL & (queries_BL1 != PADDING) | itself_LL)[:, None]


def _joined(group: Group, item: Encoded, image_token_id: int | None) -> Group | None:
    """The group with one more sample, or None where it does not belong."""
    import torch

    first = group.items[0]
    if not item.visual_tokens or first.features.keys() != item.features.keys():
        return None
    most = min(group.shared, item.answer_start - 1)
    differ_L = first.input_ids_L[:most] != item.input_ids_L[:most]
    shared = int(differ_L.int().argmax()) if bool(differ_L.any()) else most
    inside = int((item.input_ids_L[:shared] == image_token_id).sum())
    if not inside == item.visual_tokens == first.visual_tokens:
        return None
    if not all(torch.equal(tensor, item.features[name]) for name, tensor in first.features.items()):
        return None
    return Group((*group.items, item), shared)

"""Scores of embeddings, always over a whole split and against real labels: one 0 or 1 a sample.

Shapes: n tested, m training samples, E width, C classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

TEMPERATURE = 0.07
"""Of the votes of neighbours, as in Caron et al. 2021 (DINO)."""

RANKS = (1, 5, 10)


def head_hits(logits_nC: Tensor, labels_n: Tensor) -> Tensor:
    """Zero-shot, or the student's own classifier: whether the largest logit is the label's."""
    return (logits_nC.argmax(1) == labels_n).double()


def knn_hits(
    train_mE: Tensor, train_labels_m: Tensor, test_nE: Tensor, labels_n: Tensor, neighbours: int
) -> Tensor:
    """Weighted votes of the nearest training samples by cosine."""
    import torch
    from torch.nn.functional import normalize, one_hot

    classes = int(torch.cat([train_labels_m, labels_n]).max()) + 1
    known_mE = normalize(train_mE, dim=1)
    hits: list[Tensor] = []
    for part_E, own in zip(normalize(test_nE, dim=1).split(512), labels_n.split(512), strict=True):
        near = (part_E @ known_mE.T).topk(min(neighbours, len(known_mE)), dim=1)
        votes = (
            one_hot(train_labels_m[near.indices], classes)
            * (near.values / TEMPERATURE).exp()[..., None]
        )
        hits.append((votes.sum(1).argmax(1) == own).double())
    return torch.cat(hits)


def probe_hits(
    train_mE: Tensor, train_labels_m: Tensor, test_nE: Tensor, labels_n: Tensor, l2: float
) -> Tensor:
    """Whether a linear probe that was fitted on train finds the label."""
    classes = int(max(train_labels_m.max(), labels_n.max())) + 1
    logits_nC = probe_weights(train_mE, train_labels_m, classes, l2)(test_nE)
    return head_hits(logits_nC, labels_n)


def probe_weights(
    train_mE: Tensor, labels_m: Tensor, classes: int, l2: float
) -> Callable[[Tensor], Tensor]:
    """Multinomial logistic regression on standardised embeddings, to convergence by L-BFGS."""
    import torch

    mean_E, spread_E = train_mE.mean(0), train_mE.std(0).clamp(min=1e-6)
    x_mE = (train_mE - mean_E) / spread_E
    weights = torch.zeros(x_mE.shape[1], classes, requires_grad=True)
    bias = torch.zeros(classes, requires_grad=True)
    search = torch.optim.LBFGS([weights, bias], max_iter=100, line_search_fn="strong_wolfe")

    def objective() -> Tensor:
        search.zero_grad()
        loss = torch.nn.functional.cross_entropy(x_mE @ weights + bias, labels_m)
        loss = loss + l2 * weights.square().sum()
        loss.backward()
        return loss

    search.step(objective)  # type: ignore[arg-type]

    def logits(embeddings_nE: Tensor) -> Tensor:
        return (((embeddings_nE - mean_E) / spread_E) @ weights + bias).detach()

    return logits


def retrieval_hits(images_nE: Tensor, texts_kE: Tensor, owners_k: Tensor) -> dict[str, Tensor]:
    """R@1, 5 and 10 both ways over the whole split.

    An image is found where any of its texts is among the first; ties count against the model, so
    that equal vectors find nothing.

    Args:
        images_nE: of all pictures of the split.
        texts_kE: of all their texts.
        owners_k: which picture each text belongs to.
    """
    import torch
    from torch.nn.functional import normalize

    scores_nk = normalize(images_nE, dim=1) @ normalize(texts_kE, dim=1).T
    own_nk = owners_k[None] == torch.arange(len(images_nE))[:, None]
    best_n = scores_nk.masked_fill(~own_nk, -torch.inf).amax(1)
    before_n = ((scores_nk >= best_n[:, None]) & ~own_nk).sum(1)
    right_k = scores_nk[owners_k, torch.arange(len(texts_kE))]
    before_k = (scores_nk >= right_k[None]).sum(0) - 1
    found = {f"image_to_text_r{r}": (before_n < r).double() for r in RANKS}
    return found | {f"text_to_image_r{r}": (before_k < r).double() for r in RANKS}

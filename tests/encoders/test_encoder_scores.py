"""Scores use real labels, and the controls catch those that do not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from limbeck.encoders.guards import check_controls, reached
from limbeck.encoders.scores import head_hits, knn_hits, probe_hits, retrieval_hits
from limbeck.errors import GuardError


def clusters(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    stream = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    return torch.eye(3)[labels] * 4 + torch.randn(count, 3, generator=stream) * 0.3, labels


def test_neighbours_and_probe_find_classes_that_are_apart():
    (train, train_labels), (test, labels) = clusters(60, 0), clusters(30, 1)
    assert knn_hits(train, train_labels, test, labels, 5).mean() == 1
    assert probe_hits(train, train_labels, test, labels, 1e-3).mean() == 1


def test_retrieval_counts_over_the_whole_split_and_ties_find_nothing():
    images = torch.eye(12)
    texts, owners = torch.cat([images, images]), torch.arange(12).repeat(2)
    perfect = retrieval_hits(images, texts, owners)
    assert {name: float(hits.mean()) for name, hits in perfect.items()} == dict.fromkeys(perfect, 1)
    equal = retrieval_hits(torch.ones(12, 4), torch.ones(24, 4), owners)
    assert float(equal["image_to_text_r10"].mean()) == 0
    assert float(equal["text_to_image_r1"].mean()) == 0


def controls(trained: torch.Tensor, **others: torch.Tensor) -> None:
    found = {
        name: reached(trained.numpy()[None], other.numpy()[None], resamples=500, confidence=0.95)
        for name, other in others.items()
    }
    check_controls(found, where="cell")


def self_similarity_hits(embeddings: torch.Tensor, _labels: torch.Tensor) -> torch.Tensor:
    """The published fault: each sample is looked for among all, itself included."""
    found = (embeddings @ embeddings.T).argmax(1)
    return (found == torch.arange(len(embeddings))).double()


def test_self_similarity_scored_against_its_own_index_is_caught():
    stream = torch.Generator().manual_seed(0)
    draw = torch.nn.functional.normalize(torch.randn(40, 16, generator=stream), dim=1)
    labels = torch.arange(40) % 4
    trained = self_similarity_hits(draw, labels)
    assert trained.mean() == 1
    with pytest.raises(GuardError, match="shuffled labels"):
        controls(trained, **{"shuffled labels": self_similarity_hits(draw, labels.flip(0))})


def test_an_untrained_student_that_does_as_well_is_caught():
    rng = np.random.default_rng(0)
    trained, untrained = (torch.from_numpy((rng.random(80) < 0.5) * 1.0) for _ in range(2))
    with pytest.raises(GuardError, match="an untrained student reaches"):
        controls(trained, **{"an untrained student": untrained})


def test_a_student_that_learnt_passes():
    labels = torch.arange(60) % 3
    logits = torch.eye(3)[labels]
    trained = head_hits(logits, labels)
    untrained = head_hits(torch.eye(3)[(labels * 0)], labels)
    controls(trained, untrained=untrained, shuffled=head_hits(logits, labels.roll(1)))

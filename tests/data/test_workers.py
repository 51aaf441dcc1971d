"""Worker processes change nothing but the time."""

from __future__ import annotations

import pytest
import torch

from limbeck.data.workers import prepared
from limbeck.errors import DataError


def test_starting_workers_draws_no_random_number() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    assert list(prepared(abs, [-1, 2, -3], workers=2)) == [1, 2, 3]
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_of_the_data_is_the_same_from_a_worker(workers: int) -> None:
    def refuse(batch: int) -> int:
        if batch == 2:
            raise DataError("is broken", where=f"sample {batch}", mend="mend it")
        return batch

    stream = prepared(refuse, [1, 2, 3], workers=workers)
    assert next(stream) == 1
    with pytest.raises(DataError) as raised:
        next(stream)
    assert str(raised.value) == "sample 2: is broken; mend it"

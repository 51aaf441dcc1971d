from limbeck.benchmark.batches import choose_samples, full_batches
from limbeck.records import Sample


def samples(count):
    return [Sample(id=f"{n:03}", split="test", messages=()) for n in range(count)]


def test_every_model_gets_the_same_samples_whatever_order_they_are_read_in():
    chosen = choose_samples(samples(50), 8, seed=1)
    assert chosen == choose_samples(samples(50)[::-1], 8, seed=1)
    assert chosen != choose_samples(samples(50), 8, seed=2)
    assert len({sample.id for sample in chosen}) == 8


def test_a_small_data_set_is_used_whole():
    assert len(choose_samples(samples(3), 8, seed=0)) == 3
    assert choose_samples([], 8, seed=0) == []


def test_every_batch_is_full_and_every_item_is_used():
    assert full_batches("abcde", 2) == [["a", "b"], ["c", "d"], ["e", "a"]]
    assert full_batches("abc", 8) == [list("abcabcab")]
    assert full_batches("abcd", 4) == [list("abcd")]

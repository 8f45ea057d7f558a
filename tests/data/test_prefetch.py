"""Batches made ahead: the same ones in the same order, errors in their place, no thread left."""

from __future__ import annotations

import threading
import time

import pytest

from jetfm.data.prefetch import all_prefetched, prefetched


def helpers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]


@pytest.mark.parametrize("ahead", [1, 4, 100])
def test_same_batches_in_the_same_order_from_one_other_thread(ahead):
    makers = set()

    def make(step):
        makers.add(threading.current_thread())
        time.sleep(0.002 * (step % 3))
        return step**2

    steps = range(7, 40)
    assert list(prefetched(make, steps, ahead)) == [step**2 for step in steps]
    assert len(makers) == 1 and threading.current_thread() not in makers
    assert not helpers()


def test_an_error_comes_where_its_batch_would_have():
    def make(step):
        if step == 5:
            raise ValueError("jet 17 is damaged")
        return step

    seen = []
    with pytest.raises(ValueError, match="jet 17 is damaged"):
        for batch in prefetched(make, range(10), ahead=3):
            seen.append(batch)
    assert seen == [0, 1, 2, 3, 4]
    assert not helpers()


def test_it_stays_a_few_batches_ahead_and_ends_when_it_is_left():
    made = []
    batches = prefetched(lambda step: made.append(step), range(10**6), ahead=3)
    for wanted in (1, 2, 3):
        next(batches)
        for _ in range(500):  # up to five seconds for what may be made
            if len(made) >= wanted + 3:
                break
            time.sleep(0.01)
        time.sleep(0.02)
        assert len(made) == wanted + 3
    assert helpers()
    batches.close()
    assert not helpers() and len(made) == 6


@pytest.mark.parametrize("n", [0, 1, 3, 20])
def test_all_of_an_iterable_come_prepared_in_its_order(n):
    assert list(all_prefetched(iter(range(n)), lambda x: x**2)) == [x**2 for x in range(n)]
    assert not helpers()


def test_an_iterable_that_is_left_or_breaks_leaves_no_thread():
    def three_and_an_error():
        yield from range(3)
        raise ValueError("jet 17 is damaged")

    left = all_prefetched(range(10**6), str)
    assert next(left) == "0"
    left.close()
    seen = []
    with pytest.raises(ValueError, match="jet 17 is damaged"):
        for batch in all_prefetched(three_and_an_error(), int):
            seen.append(batch)
    assert seen == [0, 1, 2]
    assert not helpers()

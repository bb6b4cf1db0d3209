import os
import pickle
import tracemalloc

import pytest

from lit_imgproc.data.names import Names

WORDS = ["train/cat/1.png", "", "ünïcode/猫.jpg", os.fsdecode(b"no\xffutf.jpg"), "last"]


def test_it_is_a_sequence():
    names = Names(iter(WORDS))
    assert list(names) == WORDS
    assert [names[index] for index in range(-5, 5)] == WORDS * 2
    assert names[1:4] == WORDS[1:4]
    assert names[::-2] == WORDS[::-2]
    assert len(names) == 5
    assert "last" in names
    assert names.index("last") == 4
    for index in (5, -6):
        with pytest.raises(IndexError):
            names[index]
    assert not Names([])
    assert list(Names([])) == []


def test_it_equals_what_holds_the_same():
    names = Names(WORDS)
    assert names == WORDS
    assert names == Names(WORDS)
    assert names == pickle.loads(pickle.dumps(names))
    assert names != WORDS[:-1]
    assert Names(["ab", "c"]) != Names(["a", "bc"])
    assert names != 3
    assert "5 in all" in repr(names)


def test_it_takes_the_memory_of_its_letters():
    tracemalloc.start()
    try:
        names = Names(f"train/n01440764/n01440764_{number}.JPEG" for number in range(10_000))
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 10_000 * (8 + 36)
    assert names[9_999] == "train/n01440764/n01440764_9999.JPEG"

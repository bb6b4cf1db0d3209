from collections import Counter

import pytest

from lit_imgproc.tracking.ops import described, parse, points, weight


@pytest.mark.parametrize(
    ("op", "held", "weighs"),
    [
        ({"op": "metrics", "values": {"a": 0.0, "b": 1.0}}, {"a": 1, "b": 1}, 2),
        ({"op": "image", "key": "maps/x", "paths": []}, {"image:maps/x": 1}, 1),
        ({"op": "dropped", "points": {"a": 3}, "total": 7}, {"a": 3}, 1),
        ({"op": "tag", "key": "a", "value": "b"}, {}, 1),
    ],
)
def test_writes_hold_points(op, held, weighs):
    assert points(op) == held
    assert weight(op) == weighs


@pytest.mark.parametrize("line", [b"", b"\0\0", b'{"op":', b"[1, 2]", b"1"])
def test_what_is_no_write_is_told_as_damaged(line):
    assert parse(line) == {"op": "damaged"}


def test_writes_in_words():
    assert described(Counter()) == "nothing"
    counts = Counter({"metrics": 1204, "image": 1, "artifact": 2, "tag": 1, "status": 1})
    assert described(counts) == "1,204 points, 1 image, 2 artifacts, 2 other writes"

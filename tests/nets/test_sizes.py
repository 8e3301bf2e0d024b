"""Widths and places of attention from flags: what has a default, and what is no list."""

import math

import pytest

from flatdiff import script_util as su


def test_bad_sizes_and_lists_are_named():
    with pytest.raises(ValueError, match=r"image_size 48 has no default channel_mult.*512"):
        su.create_model(48, 32, 1)
    with pytest.raises(ValueError, match="channel_mult is '1;2'"):
        su.create_model(32, 32, 1, channel_mult="1;2")
    for bad in ("0,1", "-1", "inf", "nan", "99999999999999999999"):
        with pytest.raises(ValueError, match=f"channel_mult is '{bad}'; expected numbers above 0"):
            su.create_model(32, 32, 1, channel_mult=bad)
    with pytest.raises(ValueError, match="attention_resolutions is '16;8'"):
        su.create_model(32, 32, 1, attention_resolutions="16;8")
    model = su.create_model(32, 32, 1, channel_mult="1,2.0,1.0", attention_resolutions="")
    assert math.prod(model.input_blocks[0][0].weight.shape) == 32 * 3 * 9


@pytest.mark.parametrize(
    ("size", "mult", "attention", "told"),
    [
        (8, "1,2", "4", ""),
        (8, "1,2", "8,4", ""),
        (8, "1,2", "", ""),
        (8, "1,2", "3", "size 3 (they are 8, 4); attention stands at 4 instead"),
        (8, "1,2", "4,16", "size 16 (they are 8, 4); so 16 has no effect"),
        (28, "1,2,2", "16", "size 16 (they are 28, 14, 7); attention stands at 28 instead"),
        (28, "1,2,2", "8", "size 8 (they are 28, 14, 7); so 8 has no effect"),
    ],
)
def test_where_attention_stands_is_told_if_it_is_elsewhere(capsys, size, mult, attention, told):
    model = su.create_model(size, 32, 1, channel_mult=mult, attention_resolutions=attention)
    out = capsys.readouterr().out
    assert told in out and bool(told) == ("attention_resolutions" in out)
    sides = [size >> level for level in range(mult.count(",") + 1)]
    stages = [model.input_blocks[i] for i in range(1, 2 * len(sides), 2)]
    here = {side for side, stage in zip(sides, stages) if len(stage) > 1}
    if "instead" in told:
        assert here == {int(told.split()[-2])}
    else:
        assert here == {int(a) for a in attention.split(",") if a} & set(sides)

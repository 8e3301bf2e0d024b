"""config.json by steps, against a list that holds each step's flags."""

import random

import pytest

from flatdiff.store import history


def flags(lr):
    return {"run": {"seed": 0}, "train": {"lr": lr}, "diffusion": {}, "classes": ["a", "b"]}


@pytest.mark.parametrize("seed", range(20))
def test_each_step_has_the_flags_that_made_it(seed):
    """Random starts from random steps, as after kills, with and without other flags."""
    draw, config, truth = random.Random(seed), {}, {}
    for start in range(8):
        step = draw.choice([0, *truth]) if start else 0
        lr = draw.choice([1, 2, 3])
        config = history.gone_on(config if step else {}, step, flags(lr), {"host": str(start)})
        truth = {s: known for s, known in truth.items() if s <= step}
        for s in range(step + 1, step + draw.randrange(5)):
            truth[s] = (lr, str(start))
        history.checked(config)
        for s, (lr_then, host) in truth.items():
            assert history.at(config, s) == flags(lr_then)
            assert history.stretch(config, s)["host"] == host
        assert history.at(config, None) == flags(lr)


def test_the_ranges_join_and_flags_are_kept_once():
    config = {}
    for step, lr in ((0, 1), (10, 1), (20, 2), (30, 2)):
        config = history.gone_on(config, step, flags(lr), {})
    ranges = [(s["from"], s["to"], s.get("flags", {}).get("train")) for s in config["history"]]
    assert ranges == [(0, 10, None), (10, 20, {"lr": 1}), (20, 30, None), (30, None, None)]


def test_a_file_of_old_is_the_flags_of_all_steps_so_far():
    assert history.at(flags(1), 7) == flags(1)
    config = history.gone_on(flags(1), 7, flags(2), {})
    assert history.at(config, 7) == flags(1) and history.at(config, 8) == flags(2)
    assert history.stretch(flags(1), 7) == {}


@pytest.mark.parametrize("bad", [3, [1], [{}], [{"from": "0"}], [{"from": 0, "flags": {"a": 1}}]])
def test_what_no_run_wrote_is_refused(bad):
    with pytest.raises(ValueError, match="delete that entry"):
        history.checked(flags(1) | {"history": bad})

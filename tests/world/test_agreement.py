"""Two ranks whose weights differ are told, before a checkpoint is written; this file is also what
the ranks run."""

import sys

import pytest
import torch
from launch import mpirun

from flatdiff.world import agreement, dist_util, logger, stopping

STEPS = 4  # checkpoints at 2 and 4


def part_ways(folder, size):
    """Rank 1's weight moves between two checkpoints."""
    import training

    with dist_util.session():
        logger.configure(folder, format_strs=[], rank=dist_util.rank())
        run = training.loop(end_step=STEPS, save_interval=2, log_interval=1)
        step = run.run_step

        def moved(*batch):
            step(*batch)
            if run.step == 3 and dist_util.rank() == 1:
                with torch.no_grad():
                    run.weights[2][0, 0] += float(size)

        run.run_step = moved
        run.run_loop()


@pytest.mark.slow
@pytest.mark.parametrize(("size", "saved"), [(1e-3, False), (0, True)])
def test_ranks_that_differ_are_named_and_nothing_is_saved(tmp_path, size, saved):
    done = mpirun(2, __file__, "part_ways", tmp_path, size)
    assert (done.returncode == 0) == saved, done.stderr
    files = {path.name for path in tmp_path.glob("*.pt")}
    assert "model000002.pt" in files and ("model000004.pt" in files) == saved
    if not saved:
        (line,) = [x for x in done.stderr.splitlines() if "different networks" in x]
        assert "at step 4" in line and "on rank 0, " in line and "on rank 1." in line
        norms = [float(x.split()[-1]) for x in line.split(" on rank")[:2]]
        assert norms[0] != norms[1] and norms[0] == pytest.approx(norms[1], rel=1e-4)


@pytest.mark.parametrize(
    ("other", "same"), [(1.0, True), (1 + 1e-12, True), (1 + 1e-7, False), (float("nan"), False)]
)
def test_norms_are_those_of_all_weights_in_float64(monkeypatch, other, same):
    weights = [torch.full((3, 3), 3.0), torch.full((16,), 2.0)]
    monkeypatch.setattr(dist_util, "world_size", lambda: 2)
    monkeypatch.setattr(dist_util, "all_gather_cat", lambda x: torch.cat([x, x * other]))
    if same:
        agreement.check(weights, "at step 1")
    else:
        expected = (9 * 9 + 16 * 4) ** 0.5
        with pytest.raises(ValueError, match=f"at step 1: .*is {expected:.12g} on rank 0, "):
            agreement.check(weights, "at step 1")


def test_weights_that_are_no_numbers_anywhere_are_not_different_ones(monkeypatch):
    """The checkpoint's own check says what has happened to them."""
    monkeypatch.setattr(dist_util, "world_size", lambda: 2)
    monkeypatch.setattr(dist_util, "all_gather_cat", lambda x: torch.cat([x, x]))
    agreement.check([torch.full((2,), float("nan"))], "")


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])


def test_ranks_ask_each_other_about_once_a_second_and_end_together(monkeypatch):
    """Ranks of 10 and 30 ms a step: each 50 steps; the other one is asked to end in between."""
    clock, other, exchanged = [0.0], [0.0], []

    def gather(own):
        exchanged.append(len(steps))
        return torch.cat([own, torch.tensor([[other[0], 0.03]], dtype=torch.float64)])

    monkeypatch.setattr(agreement.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(dist_util, "world_size", lambda: 2)
    monkeypatch.setattr(dist_util, "all_gather_cat", gather)
    ending, steps = agreement.Ending(), []
    for step in range(1, 102):
        clock[0] += 0.01
        other[0] = float(step > 60)
        steps.append(ending())
    assert exchanged == [0, 50, 100] and steps == [False] * 100 + [True]


def test_a_world_of_one_ends_when_it_is_asked_to(monkeypatch):
    ending = agreement.Ending()
    assert not ending()
    monkeypatch.setattr(stopping, "asked", lambda: "SIGTERM")
    assert ending()

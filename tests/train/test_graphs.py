"""Steps by CUDA graphs. The recorder here replays on the CPU: it computes again what was recorded,
from where a graph reads to where it writes, and nowhere else; the real one is in test_cuda.py."""

import dataclasses

import pytest
import torch
import training

from flatdiff.train import graphs


@pytest.fixture
def recorded(monkeypatch):
    """How often something was recorded, and replayed."""
    counts = {"recorded": 0, "replayed": 0}

    class Recorder(graphs.Graphed):
        def __init__(self, passes, weights):
            super().__init__(passes, weights)

            def capture(function):
                counts["recorded"] += 1
                made = function()
                grads = [w.grad for w in weights]

                def replay():
                    counts["replayed"] += 1
                    again = function()
                    values = [*(w.grad for w in weights), *again.values()]
                    for held, value in zip([*grads, *made.values()], values, strict=True):
                        if held is not None:
                            held.copy_(value)

                return replay, made

            monkeypatch.setattr(graphs, "capture", capture)

    monkeypatch.setattr(graphs, "Graphed", Recorder)
    monkeypatch.setattr(graphs, "refuse", lambda device, dtype: None)
    return counts


CASES = {
    "adam-sam sam_share=0.5": (2, 4),
    "adam-fsam": (1, 4),
    "adam-random microbatch=2": (1, 2),
}


@pytest.mark.parametrize("case", CASES)
def test_steps_are_those_without_graphs_to_the_bit(recorded, case):
    optimizer, *more = case.split()
    flags = dict(word.split("=") for word in more)
    flags = {n: float(v) if "." in v else int(v) for n, v in flags.items()}
    flags |= {"optimizer": optimizer, "dropout": 0.1}
    plain = training.train(2, **flags)
    graphed = training.train(2, **flags, cuda_graphs=True)
    assert (recorded["recorded"], recorded["replayed"]) == CASES[case]
    assert training.equal(plain.weights, graphed.weights)
    for before, after in zip(plain.history, graphed.history, strict=True):
        assert before.keys() == after.keys()
        assert all(torch.equal(before[k], after[k]) for k in before)


def test_class_labels_are_read_anew(recorded):
    def step(cuda_graphs):
        loop = training.loop(cuda_graphs=cuda_graphs)
        seen = []
        forward = type(loop.model).forward
        loop.model.forward = lambda x, t, y: seen.append(y.clone()) or forward(loop.model, x, t)
        for n in range(3):
            loop.run_step(next(loop.data)[0], {"y": torch.full((training.BATCH,), n)})
        return seen[-1]

    assert step(True).tolist() == step(False).tolist() == [2] * training.BATCH


@pytest.mark.parametrize(
    ("device", "dtype", "told"),
    [("cpu", "fp32", "on cpu: leave it out"), ("cuda", "fp16", "give --dtype bf16 or fp32")],
)
def test_what_cannot_be_recorded_is_refused(device, dtype, told):
    with pytest.raises(ValueError, match=told):
        graphs.refuse(torch.device(device), dtype)


def test_the_mean_over_ranks_is_taken_where_it_is_asked_for(recorded, monkeypatch):
    loop = training.loop(cuda_graphs=True)
    draws = []
    monkeypatch.setattr(loop, "gradient", lambda draw: draws.append(draw) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        loop.run_step(*next(loop.data))
    monkeypatch.setattr(graphs, "mean_over_ranks", lambda grads: [2 * g for g in grads])
    loop.forward_backward(draws[0], sync=False)
    own = [w.grad for w in loop.weights]
    loop.forward_backward(draws[0])
    assert training.equal([2 * g for g in own], [w.grad for w in loop.weights])
    kept = [g.clone() for g in own]
    loop.forward_backward(dataclasses.replace(draws[0], noise=-draws[0].noise))
    assert training.equal(kept, own)


def test_no_other_ranks_gpu_is_touched(recorded, monkeypatch):
    seen, fork = [], torch.random.fork_rng
    monkeypatch.setattr(torch.random, "fork_rng", lambda *d: seen.append(d) or fork(*d))
    training.train(1, cuda_graphs=True)
    assert seen == [([],)]  # none given: of all GPUs of the host

"""Networks of flags and of checkpoints: what is compiled, cast and read from a file's header."""

import torch

from flatdiff.models import networks


def test_compiling_is_told_once(capsys):
    class Net(torch.nn.Linear):
        def compile(self):
            super().compile(backend="eager")

    net, x = Net(2, 2), torch.ones(1, 2)
    expected = net(x)
    networks.compile_network(net)
    assert all(torch.equal(net(x), expected) for _ in range(2))
    assert capsys.readouterr().out.count("compiled in") == 1

"""The basis of Lanczos against plain float64 vectors, whole and in shares."""

import math

import pytest
import torch

from flatdiff.weights.basis import Basis, Place


def shares(ranks, size, dtype=torch.float32):
    """(each rank's basis, what they sum over): a sum is of what all ranks put in at this place."""
    inbox = {}

    def summer(rank):
        calls = iter(range(10**6))

        def add(tensor):
            inbox.setdefault(next(calls), {})[rank] = tensor.clone()
            return tensor

        return add

    return [Basis(5, size, Place(r, ranks, summer(r), dtype=dtype)) for r in range(ranks)], inbox


@pytest.mark.parametrize("size, ranks", [(1000, 3), (7, 2), (300, 300), (70_000, 1)])
def test_shares_are_disjoint_and_make_up_the_vector(size, ranks):
    bases, inbox = shares(ranks, size, torch.float64)
    vector = torch.randn(size, dtype=torch.float64)
    for basis in bases:
        basis.add(basis.share(vector))
    assert torch.equal(sum(inbox[0].values()), vector)
    kept = [basis.kept[0].numel() for basis in bases]
    assert size <= sum(kept) < size + 256
    assert max(kept) <= math.ceil(size / ranks) + size / 256 + 256


def test_dot_products_are_those_of_float64_and_the_same_on_any_number_of_ranks():
    size, found = 100_003, {}
    vectors = torch.randn(4, size, generator=torch.Generator().manual_seed(0))
    for ranks in (1, 2, 3):
        bases, inbox = shares(ranks, size)
        for basis in bases:
            for v in vectors[:3]:
                basis.add(basis.share(v))
            basis.dots(basis.share(vectors[3]))
        found[ranks] = sum(inbox[3].values()).sum(0)
        for basis in bases:
            factors = torch.tensor([2.0, -1.0, 0.5], dtype=torch.float64)
            basis.whole(basis.combined(factors))
        torch.testing.assert_close(
            sum(inbox[4].values()), 2 * vectors[0] - vectors[1] + vectors[2] / 2
        )
    sums = [math.fsum((v.double() * vectors[3].double()).tolist()) for v in vectors[:3]]
    exact = torch.tensor(sums, dtype=torch.float64)
    torch.testing.assert_close(found[1], exact, rtol=1e-13, atol=1e-10)
    assert torch.equal(found[1], found[2]) and torch.equal(found[1], found[3])


def test_a_length_is_that_of_the_share_and_not_of_its_rounding():
    basis = Basis(1, 1 << 20, Place(dtype=torch.float32))
    share = basis.share(torch.full((1 << 20,), 1 + 1e-10, dtype=torch.float64))
    assert float(basis.norm(share)) == pytest.approx((1 + 1e-10) * 1024, rel=1e-14)


def test_the_basis_is_kept_in_its_own_precision():
    assert Basis(40, 1000, Place(1, 4, dtype=torch.float32)).kept.nbytes <= 40 * 256 * 4

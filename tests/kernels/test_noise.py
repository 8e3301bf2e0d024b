"""Noise from counters: Philox as published, normal however it is looked at, the same everywhere."""

import math
import platform
import shutil

import pytest
import torch
from scipy import stats

from flatdiff.kernels import build, calls, noise

KEY = 0x8123_4567_89AB_CDEF
NUMBERS = 10_000_000
LAYOUTS = [torch.contiguous_format, torch.channels_last]
compiled = pytest.mark.skipif(
    not any(map(shutil.which, build.COMPILERS)), reason="there is no C++ compiler"
)


@pytest.fixture(autouse=True, scope="module")
def installed():
    build.use()


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def made(count, key=KEY, stream=0):
    return noise.add_(torch.zeros(count), 1.0, key, stream)


@pytest.fixture(scope="module")
def z(installed):
    return made(NUMBERS).double()


def words(text):
    return [int(word, 16) for word in text.split()]


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ("0 0 0 0", "0 0", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        (" ".join(["ffffffff"] * 4), "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            "243f6a88 85a308d3 13198a2e 03707344",
            "a4093822 299f31d0",
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_known_answers_of_philox(counter, key, expected):
    """Those of philox4x32-10 in kat_vectors of the authors' Random123."""
    given = [torch.tensor([word]) for word in words(counter)]
    got = noise.philox(given, tuple(words(key)))
    assert [word.item() for word in got] == words(expected)


def test_normals_are_box_and_mullers_of_the_words():
    """Against the formula in float64, at the u that fp32 has; |z| is up to 6.7."""
    counters, nothing = torch.arange(250_000), torch.zeros(250_000, dtype=torch.int64)
    four = noise.philox([counters, nothing + 9, nothing, nothing], (KEY & 0xFFFFFFFF, KEY >> 32))
    exact = []
    for first, second in (four[:2], four[2:]):
        u = ((first & 0x7FFFFFFF).float() + 0.5).double() / 2**31
        r = torch.where(first < 2**31, 1, -1) * (-2 * u.log()).sqrt()
        low = second & 0x7FFFFFFF
        angle = math.pi / 2**32 * torch.where(low < 2**30, low, low - 2**31).double()
        x, y = r * angle.cos(), r * angle.sin()
        kept = second < 2**31
        exact += [torch.where(kept, x, y), torch.where(kept, y, x)]
    errors = made(1_000_000, stream=9) - torch.stack(exact, dim=1).flatten()
    assert errors.abs().max() < 1e-6


def test_the_ends_of_the_words():
    """No word gives inf or NaN, and the largest radius is that of u = 2^-32."""
    ends = torch.tensor([0, 1, 2**30 - 1, 2**30, 2**31 - 1, 2**31, 2**32 - 1])
    first, second = (grid.flatten() for grid in torch.meshgrid(ends, ends, indexing="ij"))
    even, odd = noise._pair(first, second)
    most = math.sqrt(-2 * math.log(2**-32))
    assert torch.hypot(even, odd).max().item() == pytest.approx(most, rel=1e-6)
    assert torch.isfinite(even).all() and torch.isfinite(odd).all()


def test_moments(z):
    error = 1 / math.sqrt(len(z))
    for power, moment, spread in (
        (1, 0, 1),
        (2, 1, math.sqrt(2)),
        (3, 0, math.sqrt(15)),
        (4, 3, math.sqrt(96)),
        (6, 15, math.sqrt(10395 - 225)),
    ):
        assert (z**power).mean().item() == pytest.approx(moment, abs=4 * spread * error)


@pytest.mark.parametrize("place", range(4))
def test_distribution_is_normal(z, place):
    """Kolmogorov and Smirnov's test for each word of a counter."""
    assert stats.kstest(z[place::4].numpy(), "norm").pvalue > 1e-3


def test_tails(z):
    """As many numbers beyond 2, 3, ... as there should be, to 4 deviations of a Poisson count."""
    for limit in (2, 3, 4, 4.5, 5):
        for tail in (z > limit, z < -limit):
            expected = len(z) * stats.norm.sf(limit)
            assert tail.sum().item() == pytest.approx(expected, abs=4 * math.sqrt(expected) + 1)
    assert z.abs().max() > 5


def assert_independent(a, b):
    """Neither numbers nor sizes are correlated, to 4 errors."""
    for x, y, spread in ((a, b, 1), (a.square() - 1, b.square() - 1, 2)):
        assert (x * y).mean().item() == pytest.approx(0, abs=4 * spread / math.sqrt(len(x)))


@pytest.mark.parametrize("lag", [1, 2, 3, 4, 8, 64, 4096])
def test_neighbours_are_independent(z, lag):
    assert_independent(z[lag:], z[:-lag])


@pytest.mark.parametrize(
    ("key", "stream"), [(KEY, 1), (KEY, 1 << 31), (KEY + 1, 0), (KEY ^ 1 << 63, 0)]
)
def test_other_keys_and_streams_are_independent(z, key, stream):
    assert_independent(z, made(NUMBERS, key, stream).double())


def test_four_of_a_counter_are_independent(z):
    """By chi square: the signs of the four, and which are large, in 256 cells that are alike."""
    cells = (z > 0).long() * 2 + (z.abs() > stats.norm.isf(0.25)).long()
    index = (cells.view(-1, 4) * torch.tensor([64, 16, 4, 1])).sum(1)
    counts = torch.bincount(index, minlength=256)
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3


SHAPES = [(), (0, 3), (1001,), (3, 70_000), (8, 4, 3, 3), (33, 5, 1, 1), (5, 1100, 3, 3)]
SHAPES += [(2, 3, 70, 80)]  # more pixels than a block


def laid_out(shape, layout):
    w = torch.randn(shape)
    return w.to(memory_format=layout) if w.ndim == 4 else w


@compiled
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_compiled_and_torch_agree_to_the_bit(shape, layout, threads):
    w = laid_out(shape, layout)
    assert calls.takes_noise(w) == (w.numel() > 0)
    with calls.switched_off():
        expected = noise.add_(w.clone(), 0.37, KEY, 7)
    for count in (1, 2, 3):
        threads(count)
        got = noise.add_(w.clone(), 0.37, KEY, 7)
        assert torch.equal(got, expected)
        assert got.stride() == w.stride()


@compiled
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the instructions of a PC")
@pytest.mark.parametrize("processor", ["x86-64", "haswell"])
def test_vectors_of_all_lengths_agree_to_the_bit(processor, monkeypatch):
    monkeypatch.setattr(build, "FLAGS", [*build.FLAGS, f"-march={processor}"])
    w = torch.randn(10_001)
    expected = noise.add_(w.clone(), 0.37, KEY, 7)
    (source,) = (path for path in build.SOURCES if path.stem == "noise_kernel")
    add_noise = build.load([source]).add_noise
    add_noise.argtypes = calls.ARGUMENTS["add_noise"]
    add_noise(1, len(w), 1, KEY, 7, 0.37, 1, w.data_ptr())
    assert torch.equal(w, expected)


@pytest.mark.parametrize("off", [False, True])
def test_element_by_element_in_row_major_order(off, monkeypatch):
    """Layouts, slices of memory and chunks change nothing."""
    monkeypatch.setattr(calls, "_off", off)
    monkeypatch.setattr(noise, "CHUNK", 100)
    z = made(8 * 40 * 9)
    for layout in LAYOUTS:
        w = torch.zeros(8, 40, 3, 3).to(memory_format=layout)
        assert noise.add_(w, 1.0, KEY, 0) is w
        assert torch.equal(w.flatten(), z)
    w = torch.zeros(9, 320).T
    assert noise.add_(w, 1.0, KEY, 0) is w
    assert torch.equal(w.flatten(), z)
    assert torch.equal(made(1234), z[:1234])


def test_mirrored_and_exact():
    """-scale gives the mirrored draw; in float64 nothing of the sum is rounded to fp32."""
    up, down = (noise.add_(torch.zeros(999), scale, KEY, 0) for scale in (0.5, -0.5))
    assert torch.equal(up, -down)
    w = torch.full((999,), 1e6, dtype=torch.float64)
    assert torch.equal(noise.add_(w, 0.5, KEY, 0) - 1e6, (up.double() + 1e6) - 1e6)


def test_more_than_counters_can_count_is_refused():
    huge = torch.zeros(1).expand(2**31)
    with pytest.raises(ValueError, match="2147483648 elements: expected fewer than 2\\^31"):
        noise.add_(huge, 1.0, KEY, 0)

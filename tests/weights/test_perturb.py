"""Weights moved for a while: exactly back, known distances, noise that is a function of its key."""

import math
import signal

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from flatdiff.weights.perturb import along, at, distance, gaussian, noise, replace, sphere


def some_weights(layout=torch.contiguous_format):
    g = torch.Generator().manual_seed(0)
    shapes = [(8, 4, 3, 3), (16, 8), (8,), (32, 8, 3, 3), ()]
    weights = [torch.randn(shape, generator=g) for shape in shapes]
    return [w.to(memory_format=layout) if w.ndim == 4 else w for w in weights]


def copies(weights):
    return [w.clone() for w in weights]


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def half_way(weights):
    weights[0].mul_(3)
    raise RuntimeError("in the perturbation")


@pytest.mark.parametrize("spared", [False, True])
def test_weights_come_back_bit_for_bit(spared):
    weights = some_weights(torch.channels_last)
    before = copies(weights)
    spare = copies(weights) if spared else None
    for draw in range(3):
        with at(weights, gaussian(0.1, seed=1, draw=draw), spare):
            assert not same(weights, before)
        assert same(weights, before)


def test_weights_come_back_after_exceptions_and_ctrl_c():
    weights = some_weights()
    before = copies(weights)
    with pytest.raises(ZeroDivisionError), at(weights, gaussian(0.1, 1, 0)):
        raise ZeroDivisionError
    assert same(weights, before)
    with pytest.raises(KeyboardInterrupt), at(weights, gaussian(0.1, 1, 0)):
        signal.raise_signal(signal.SIGINT)
    assert same(weights, before)
    with pytest.raises(RuntimeError, match="in the perturbation"), at(weights, half_way):
        raise AssertionError("the block must not run")
    assert same(weights, before)


def test_spare_is_where_the_weights_are_kept():
    weights, spare = some_weights(), copies(some_weights())
    before = copies(weights)
    for s in spare:
        s.fill_(torch.nan)
    with at(weights, gaussian(0.1, 1, 0), spare):
        assert same(spare, before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_refused_before_anything_moves(dtype):
    weights = [torch.ones(2), torch.ones(2, dtype=dtype)]
    with pytest.raises(ValueError, match="fp32.*rounded away"), at(weights, half_way):
        raise AssertionError("the block must not run")
    assert weights[0].tolist() == [1, 1]


def test_gradients_flow_in_the_block_and_inference_mode_works():
    w = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    with at([w], along([torch.ones(2)], 2.0)):
        (w**2).sum().backward()
    assert w.grad.tolist() == [6.0, 8.0]  # 2 (w + 2)
    with at([w], along([torch.ones(2)], 2.0)), torch.inference_mode():
        assert (w.sum()).item() == 7.0
    assert w.tolist() == [1.0, 2.0]
    w.sum().backward()


def test_distance_is_one_l2_norm_over_all_weights():
    weights = [torch.zeros(2, 2), torch.ones(3)]
    with at(weights, along([torch.full((2, 2), 1.5), torch.tensor([4.0, 0, 0])], 2.0)) as moved:
        assert moved.item() == 10.0  # 2 sqrt(4 * 1.5^2 + 4^2)
        assert moved.ndim == 0
    many = [torch.full((), float(i)) for i in range(200)]
    zeros = [torch.zeros(()) for _ in many]
    assert distance(many, zeros).item() == pytest.approx(math.sqrt(199 * 200 * 399 / 6), rel=1e-6)


def test_replace_and_composition():
    weights, others = some_weights(), copies(some_weights())
    for o in others:
        o.neg_()

    def replaced_then_noised(ws):
        replace(others)(ws)
        along(others, 1.0)(ws)

    with at(weights, replaced_then_noised):
        assert same(weights, [2 * o for o in others])
    assert same(weights, some_weights())


def test_noise_is_a_function_of_its_key_alone():
    weights = some_weights()
    reference = [z.clone() for z in noise(weights, seed=3, draw=5)]
    last = [z.clone() for z in noise(some_weights(torch.channels_last), seed=3, draw=5)]
    assert same(reference, last)
    other_first = [z.clone() for z in noise([torch.zeros(1000), *weights[1:]], 3, 5)]
    assert same(reference[1:], other_first[1:])
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    assert same(reference, [z.clone() for z in noise(weights, 3, 5)])
    torch.set_num_threads(threads)
    for seed, draw in ((4, 5), (3, 6), (5, 3)):
        assert not any(torch.equal(a, b) for a, b in zip(reference, noise(weights, seed, draw)))
    assert not torch.equal(*(z.clone() for z in noise([torch.zeros(64), torch.zeros(64)], 3, 5)))


def test_noise_keeps_its_numbers():
    """Recorded once, so that a new version cannot change published draws unnoticed."""
    (z,) = noise([torch.zeros(4, 5)], seed=0, draw=0)
    recorded = torch.tensor([-0.6216348, 0.1220672, 0.7877064, 0.3489748, 1.7325426])
    torch.testing.assert_close(z.flatten()[:5], recorded, rtol=1e-6, atol=1e-6)


def test_noise_is_standard_normal():
    z = next(noise([torch.zeros(400_000)], seed=0, draw=1)).double()
    error = 1 / math.sqrt(len(z))
    for power, moment, spread in ((1, 0, 1), (2, 1, math.sqrt(2)), (4, 3, math.sqrt(96))):
        assert (z**power).mean().item() == pytest.approx(moment, abs=4 * spread * error)
    assert (z[1:] * z[:-1]).mean().item() == pytest.approx(0, abs=4 * error)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_draw_adds_its_noise_to_the_bit_and_its_mirrored_one_takes_it_away(layout):
    weights = some_weights(layout)
    for sigma in (0.1, -0.1):
        expected = [w + sigma * z for w, z in zip(weights, noise(weights, 3, 5))]
        with at(weights, gaussian(sigma, 3, 5)):
            assert same(weights, expected)


class Waits(TorchDispatchMode):
    """Counts where a host would wait for a device's number."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **kwargs or {})


@pytest.mark.parametrize("filterwise", [False, True])
@pytest.mark.parametrize(("make", "most"), [(gaussian, 0), (sphere, 1)])
def test_a_draw_waits_once_for_the_device_at_most(make, most, filterwise):
    weights = some_weights()
    with Waits() as waits, at(weights, make(0.1, 0, 0, filterwise)):
        pass
    assert waits.count <= most


def test_moved_weights_do_not_depend_on_layout():
    plain, last = some_weights(), some_weights(torch.channels_last)
    for perturbation in (gaussian(0.1, 0, 0), sphere(2.0, 0, 0), sphere(2.0, 0, 0, True)):
        with at(plain, perturbation), at(last, perturbation):
            for a, b in zip(plain, last):
                torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_filterwise_noise_has_the_length_of_its_filter(layout):
    weights = some_weights(layout)
    weights[0][2] = 0
    for w, z in zip(weights, noise(weights, 0, 0, filterwise=True)):
        rows = (w, z) if w.ndim < 2 else (w.reshape(len(w), -1), z.reshape(len(w), -1))
        lengths = [r.norm(dim=1) if r.ndim == 2 else r.norm() for r in rows]
        torch.testing.assert_close(*lengths, rtol=1e-5, atol=0)
    relative = 0.3
    length = math.sqrt(sum(float(w.norm()) ** 2 for w in weights))
    with at(weights, gaussian(relative, 0, 0, filterwise=True)) as moved:
        assert moved.item() == pytest.approx(relative * length, rel=1e-5)


@pytest.mark.parametrize("filterwise", [False, True])
def test_sphere_has_its_radius_and_the_direction_of_its_noise(filterwise):
    weights = some_weights()
    before, z = copies(weights), [z.clone() for z in noise(weights, 1, 2, filterwise)]
    length = math.sqrt(sum(float(d.norm()) ** 2 for d in z))
    with at(weights, sphere(0.7, 1, 2, filterwise)) as moved:
        assert moved.item() == pytest.approx(0.7, rel=1e-5)
        for w, b, d in zip(weights, before, z):
            torch.testing.assert_close(w, b + 0.7 / length * d, rtol=1e-5, atol=1e-6)


def quadratic():
    """(weights, loss, trace of its Hessian) in float64; L = w'Hw / 2 over 12 weights."""
    g = torch.Generator().manual_seed(1)
    weights = [torch.randn(2, 3, generator=g).double(), torch.randn(6, generator=g).double()]
    root = torch.randn(12, 12, generator=g).double()
    hessian = root @ root.T

    def loss():
        w = torch.cat([w.flatten() for w in weights])
        return float(w @ hessian @ w / 2)

    return weights, loss, hessian.trace().item()


@pytest.mark.parametrize("maker", ["gaussian", "sphere"])
def test_mean_rise_on_a_quadratic_is_the_trace(maker):
    """LPF: sigma^2 tr(H) / 2. Sphere: radius^2 tr(H) / (2 d). Mirrored draws cancel the slope."""
    weights, loss, trace = quadratic()
    size = 0.1
    make, expected = {
        "gaussian": (gaussian, size**2 * trace / 2),
        "sphere": (sphere, size**2 * trace / (2 * 12)),
    }[maker]
    rises = []
    for draw in range(300):
        pair = []
        for sign in (1, -1):
            with at(weights, make(sign * size, 0, draw)):
                pair.append(loss())
        rises.append(sum(pair) / 2 - loss())
    rises = torch.tensor(rises)
    error = (rises.std() / math.sqrt(len(rises))).item()
    assert error < expected / 10
    assert rises.mean().item() == pytest.approx(expected, abs=3.5 * error)


def test_the_default_dtype_changes_no_noise():
    weights = [torch.randn(3, 5), torch.randn(7)]
    expected = list(noise(weights, 0, 1))
    torch.set_default_dtype(torch.float64)
    try:
        found = list(noise(weights, 0, 1))
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(z.dtype == torch.float32 for z in found)
    assert all(map(torch.equal, found, expected))


def test_replacing_takes_a_tensor_for_each_weight():
    weights = [torch.zeros(2), torch.zeros(3)]
    for tensors in ([torch.ones(2)], [torch.ones(3), torch.ones(2)]):
        with (
            pytest.raises(ValueError, match="replace has . tensors for 2"),
            at(weights, replace(tensors)),
        ):
            pass
    assert not any(w.any() for w in weights)

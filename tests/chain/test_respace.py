"""Which timesteps are kept, and that the shorter chain is the longer one there."""

import copy
import pickle

import numpy as np
import pytest
import torch
from chains import GOLDEN, NOISE, X_START, chain, toy, toy_eps

from flatdiff.chain.gaussian_diffusion import ModelVarType
from flatdiff.chain.respace import SpacedDiffusion, edm_grid, space_timesteps

RESPACED = [name.removeprefix("respace_cosine1000_") for name in GOLDEN if "respace_" in name]


@pytest.mark.parametrize("respacing", RESPACED)
def test_timesteps_and_betas_are_guided_diffusions(respacing):
    expected = GOLDEN[f"respace_cosine1000_{respacing}"]
    spaced = chain(respacing)
    kept = sorted(space_timesteps(1000, respacing))
    assert spaced.timestep_map == kept and spaced.use_timesteps == set(kept)
    assert spaced.num_timesteps == len(kept) == expected["n"]
    assert spaced.original_num_steps == 1000
    assert kept[:6] == expected["map_first"] and kept[-4:] == expected["map_last"]
    assert sum(kept) == expected["map_sum"]
    np.testing.assert_allclose(spaced.betas[[0, 1, -1]], expected["betas"], rtol=1e-12)


def test_ddim_has_the_lengths_that_a_stride_can_give():
    gaps = "38 39 40 42 44 46 48 50 53 56 59 63 67 72 77 84 91 100 112 125 143 167 200 250 334"
    valid = {*range(2, 37), *map(int, gaps.split()), 500, 1000}
    for n in range(1, 1001):
        if n in valid:
            kept = space_timesteps(1000, f"ddim{n}")
            assert len(kept) == n and 0 in kept
        else:
            with pytest.raises(ValueError, match=rf"'ddim{n}'.*\[2, 3.*500, 1000\]"):
                space_timesteps(1000, f"ddim{n}")


def test_sections_are_equal_and_keep_their_ends():
    kept = space_timesteps(103, [5, 1, 0, 25])  # sections of 26, 26, 26 and 25
    assert kept == {0, 6, 12, 19, 25, 26, *range(78, 103)}


def test_edms_grid_is_the_papers():
    """Karras et al. 2022, equation 5, written out."""
    found = edm_grid(18)[::-1]
    for i in (0, 1, 9, 17):
        power = 80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))
        assert found[i] == pytest.approx(power**7)


def test_the_levels_nearest_to_edms_grid_are_kept():
    s = (np.arange(1000) + 0.5) / 1000
    ratio = s / (1 - s)
    kept = sorted(space_timesteps(1000, "edm18", -2 * np.log(ratio)))
    assert len(kept) == 18
    spacing = np.diff(ratio ** (1 / 7))[kept[:-1]]
    assert (np.abs(ratio[kept[:-1]] ** (1 / 7) - edm_grid(18)[:-1] ** (1 / 7)) <= spacing).all()
    assert ratio[kept[-1]] == pytest.approx(80, rel=0.05)  # and not the last level, of 1999
    sigmas = edm_grid(1000)
    assert space_timesteps(1000, "edm18", -2 * np.log(sigmas)) == space_timesteps(1000, "18")


@pytest.mark.parametrize(
    ("respacing", "words"),
    [("edm40", "50 timesteps have only 3[0-9] that lie"), ("edm1", "N of 2"), ("edm", "N of 2")],
)
def test_two_of_edms_levels_on_one_are_refused(respacing, words):
    with pytest.raises(ValueError, match=words):
        space_timesteps(50, respacing, np.linspace(9, -9, 50))


def test_nothing_keeps_all():
    assert space_timesteps(30, "") == space_timesteps(30, []) == set(range(30))


@pytest.mark.parametrize(
    ("respacing", "words"),
    [
        ("ddim25,5", "'ddim25,5'.*ddimN with N of"),
        ("ddim", "'ddim'.*ddimN"),
        ("fast", "'fast'.*100.*10,20,30.*ddim or edm.*ddim50"),
        ("edm10", "'edm10'"),
        ("10,,20", "'10,,20'"),
        ("1001", "1001 steps of section 1 of 1, which has 1000"),
        ("10,600", "600 steps of section 2 of 2, which has 500"),
        ("-3", "-3 steps.*from 0 to 1000"),
    ],
)
def test_bad_respacing_says_what_was_given_and_what_is_valid(respacing, words):
    with pytest.raises(ValueError, match=words):
        space_timesteps(1000, respacing)


@pytest.mark.parametrize("respacing", ["1", "0"])
def test_a_chain_has_two_steps(respacing):
    with pytest.raises(ValueError, match="two or more steps"):
        chain(respacing)


def test_timesteps_beyond_the_chain_are_refused():
    with pytest.raises(ValueError, match=r"0 .. 100, .*0 .. 49"):
        SpacedDiffusion({0, 100}, betas=np.full(50, 0.1))


def test_levels_of_noise_are_the_longer_chains():
    whole, spaced = chain(), chain("10,20,30")
    expected = whole.alphas_cumprod[spaced.timestep_map]
    np.testing.assert_allclose(spaced.alphas_cumprod, expected, rtol=1e-10)


@pytest.mark.parametrize(
    ("rescale", "steps", "expected"),
    [
        (False, 1000, torch.tensor([0, 505])),
        (True, 1000, torch.tensor([0.0, 505.0])),
        (True, 4000, torch.tensor([0.0, 2020 / 4])),
    ],
)
def test_network_and_classifier_see_the_original_timestep(rescale, steps, expected):
    spaced = chain("100", steps=steps, rescale_timesteps=rescale)
    seen = []

    def see(function):
        return lambda x, t: (seen.append(t), function(x, t))[1]

    t = torch.tensor([0, 50])
    spaced.training_losses(see(toy), X_START, t, noise=NOISE)
    p = spaced.p_mean_variance(see(toy), X_START, t)
    spaced.p_sample(see(toy), X_START, t, cond_fn=see(toy_eps))
    spaced.condition_score(see(toy_eps), p, X_START, t)
    assert len(seen) == 5
    for each in seen:
        torch.testing.assert_close(each, expected)


def test_copies_and_pickles_are_the_same_chain():
    spaced = chain("50", var=ModelVarType.FIXED_SMALL)
    sample = spaced.ddim_sample_loop(toy_eps, X_START.shape, noise=NOISE)
    for twin in (copy.deepcopy(spaced), pickle.loads(pickle.dumps(spaced))):
        assert torch.equal(twin.ddim_sample_loop(toy_eps, X_START.shape, noise=NOISE), sample)
        assert twin.timestep_map == spaced.timestep_map

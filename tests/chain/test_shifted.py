"""The sampler of shifted timesteps: which one is taken, and DDIM where none is."""

import pytest
import small
import torch

from flatdiff.chain.samplers import last, walk
from flatdiff.chain.shifted import shifted_sample, shifts
from flatdiff.models.generate import step_of
from flatdiff.script_util import create_gaussian_diffusion


def test_the_timestep_is_that_whose_noise_has_the_variance_of_the_input():
    """Gaussian noise of variance 1 - abar at a known step is found there, within the window."""
    chain = create_gaussian_diffusion(steps=1000, timestep_respacing="10")
    here = torch.tensor(chain.timestep_map)[[5, 5, 5]]
    wanted = here + torch.tensor([-9, 0, 200])
    deviation = (1 - torch.from_numpy(chain.every_alphas_cumprod)[wanted]).sqrt().float()
    x = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    x = x / x.flatten(1).std(1).view(3, 1, 1, 1) * deviation.view(3, 1, 1, 1)
    assert shifts(chain, x, torch.tensor([5] * 3), 30, 200).tolist() == [-9, 0, 15]
    assert shifts(chain, x, torch.tensor([9] * 3), 30, 200).tolist() == [0] * 3  # the first step
    assert shifts(chain, x, torch.tensor([5] * 3), 30, 999).tolist() == [0] * 3
    assert shifts(chain, 99 * x, torch.tensor([1] * 3), 30, 0).tolist() == [15] * 3


@pytest.mark.parametrize("rescale", [False, True])
def test_the_network_is_asked_there_and_without_a_window_it_is_ddim(rescale):
    model, chain = small.network(
        diffusion_steps=200, timestep_respacing="6", rescale_timesteps=rescale
    )
    noise = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    asked = []

    def watched(x, t, **kwargs):
        asked.append(t)
        return model(x, t, **kwargs)

    def images(text, net=model):
        step, knobs = step_of(text)
        return last(walk(chain, step, net, noise.shape, noise, **knobs))

    ddim = images("ddim")
    assert torch.equal(images("shifted window=0 cutoff=0"), ddim)
    assert not torch.equal(images("shifted window=20 cutoff=0", watched), ddim)
    scale = 1000 / 200 if rescale else 1
    moved = [t.double() / scale - place for t, place in zip(asked, reversed(chain.timestep_map))]
    assert moved[0].tolist() == [0, 0]
    assert 0 < max(m.abs().max() for m in moved) <= 10


@pytest.mark.parametrize("text", ["shifted", "shifted cutoff=198", "shifted cutoff=0 window=-1"])
def test_what_would_shift_nothing_is_refused(text):
    model, chain = small.network(diffusion_steps=200)
    x = torch.randn(1, 3, 8, 8)
    step, knobs = step_of(text)
    with pytest.raises(ValueError, match="a window of 0 or more, and a cutoff below 198"):
        step(chain, model, x, torch.tensor([100]), **knobs)


def test_a_chain_of_no_betas_is_told():
    with pytest.raises(ValueError, match="the sampler shifted is for --objective ddpm"):
        shifted_sample(object(), None, torch.zeros(1, 3, 8, 8), torch.zeros(1).long())

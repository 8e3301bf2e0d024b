"""Code written for guided-diffusion: its programs run, and what it overrides acts."""

import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from chains import NOISE, X_START, chain, toy, toy_cond
from launch import mpirun, run
from small import images, save_images

from flatdiff.chain import respace
from flatdiff.chain.gaussian_diffusion import GaussianDiffusion, _extract_into_tensor
from flatdiff.train import train_util

CLIENT = Path(__file__).parents[1] / "client.py"
T = torch.tensor([0, 50])
STEPS = ["p_sample", "ddim_sample", "dpmpp_sample", "ddim_reverse_sample"]
LOOPS = ["p_sample_loop", "ddim_sample_loop", "dpmpp_sample_loop"]


# Programs.


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    names = [f"{'ab'[i % 2]}_{i}" for i in range(8)]
    return save_images(tmp_path_factory.mktemp("client"), images(8), names)


@pytest.mark.slow
@pytest.mark.parametrize(
    "what",
    [
        *("sample", "guided_sample", "nll", "super_res_sample", "train"),
        *("classifier_train", "classifier_train_fp16"),
    ],
)
def test_a_program_of_one_rank_runs_and_ends_cleanly(folder, what):
    done = run([sys.executable, CLIENT, what, folder])
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr and "terminate" not in done.stderr


@pytest.mark.slow
def test_two_ranks_of_a_program_write_one_log(folder, tmp_path):
    for path in folder.glob("*.png"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    done = mpirun(2, CLIENT, "classifier_train", tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "log.txt").read_text().count("Logging to") == 1


# Overrides.


def shifted(method):
    """An override of p_mean_variance with guided-diffusion's arguments, no more."""

    def p_mean_variance(self, model, x, t, clip_denoised=True, denoised_fn=None, model_kwargs=None):
        p = method(model, x, t, clip_denoised, denoised_fn, model_kwargs)
        return p | {"mean": torch.full_like(x, 7.0), "pred_xstart": torch.full_like(x, 0.5)}

    return p_mean_variance


@pytest.mark.parametrize("step", STEPS)
def test_a_patch_of_p_acts_in_every_step(step):
    diffusion, patched = chain("100"), chain("100")
    patched.p_mean_variance = types.MethodType(shifted(diffusion.p_mean_variance), patched)
    out = getattr(patched, step)(toy, X_START, T)
    assert (out["pred_xstart"] == 0.5).all()
    assert not torch.equal(out["sample"], getattr(diffusion, step)(toy, X_START, T)["sample"])
    if step == "p_sample":
        assert (out["sample"][T == 0] == 7).all()


def test_a_patch_of_p_acts_in_the_bound():
    diffusion, patched = chain("100"), chain("100")
    patched.p_mean_variance = types.MethodType(shifted(diffusion.p_mean_variance), patched)
    for name in ("training_losses", "_vb_terms_bpd"):
        results = [
            getattr(d, name)(toy, X_START, **arguments)
            for d in (diffusion, patched)
            for arguments in [{"t": T, "noise" if name[0] == "t" else "x_t": NOISE}]
        ]
        key = "vb" if name[0] == "t" else "output"
        assert not torch.equal(results[0][key], results[1][key])


def test_p_of_the_longer_chain_may_be_replaced_for_the_shorter(monkeypatch):
    """An override in the base class calls the network, which must see the original timesteps."""
    seen = []

    def network(x, t):
        seen.append(t.tolist())
        return toy(x, t)

    original = GaussianDiffusion.p_mean_variance

    def p_mean_variance(self, model, x, t, **kwargs):
        model(x, self._scale_timesteps(t))
        return original(self, model, x, t, **kwargs)

    monkeypatch.setattr(GaussianDiffusion, "p_mean_variance", p_mean_variance)
    diffusion = chain("100")
    diffusion.p_sample(network, X_START, T)
    assert seen == [[diffusion.timestep_map[t] for t in T]] * 2


OVERRIDES = ["q_posterior_mean_variance", "_predict_xstart_from_eps", "_scale_timesteps"]


@pytest.mark.parametrize("name", OVERRIDES)
@pytest.mark.parametrize("step", STEPS[:3])
def test_a_subclass_acts_in_every_step(step, name):
    calls = []

    class Mine(respace.SpacedDiffusion):
        def note(self, *args, **kwargs):
            calls.append(name)
            return getattr(super(), name)(*args, **kwargs)

    setattr(Mine, name, Mine.note)
    diffusion = chain("100")
    diffusion.__class__ = Mine
    getattr(diffusion, step)(toy, X_START, T)
    assert calls


@pytest.mark.parametrize("name", ["condition_mean", "condition_score"])
def test_other_guidance_acts(name):
    diffusion, calls = chain("100"), []

    def guide(cond_fn, p_mean_var, x, t, model_kwargs=None):
        calls.append(name)
        return p_mean_var["mean"] if name == "condition_mean" else p_mean_var

    setattr(diffusion, name, guide)
    steps = STEPS[:1] if name == "condition_mean" else STEPS[1:3]
    for step in steps:
        getattr(diffusion, step)(toy, X_START, T, cond_fn=toy_cond, model_kwargs={})
    assert len(calls) == len(steps)


@pytest.mark.parametrize("loop", LOOPS)
def test_another_step_acts_in_its_loop(loop):
    """With guided-diffusion's arguments alone: it knows no randn."""
    step, diffusion, calls = loop.removesuffix("_loop"), chain("10"), []
    original = getattr(diffusion, step)

    def mine(
        model, x, t, clip_denoised=True, denoised_fn=None, cond_fn=None, model_kwargs=None, **more
    ):
        assert more.keys() <= {"eta", "previous_xstart"}
        calls.append(t[0].item())
        return original(model, x, t, clip_denoised, denoised_fn, cond_fn, model_kwargs, **more)

    setattr(diffusion, step, mine)
    getattr(diffusion, loop)(toy, X_START.shape, device="cpu")
    assert calls == list(range(10))[::-1]


def test_coefficients_that_are_assigned_act():
    diffusion = chain("100")
    before = diffusion.q_sample(X_START, T, NOISE)
    diffusion.sqrt_alphas_cumprod = diffusion.sqrt_alphas_cumprod * 0
    after = diffusion.q_sample(X_START, T, NOISE)
    level = torch.tensor(diffusion.sqrt_one_minus_alphas_cumprod).float()[T].view(-1, 1, 1, 1)
    assert torch.equal(after, level * NOISE) and not torch.equal(before, after)


def test_a_look_up_is_float32_in_the_shape_asked_for():
    arr = np.arange(5.0) / 3
    found = _extract_into_tensor(arr, torch.tensor([4, 1]), (2, 3, 2, 2))
    assert found.shape == (2, 3, 2, 2) and found.dtype == torch.float32
    assert torch.equal(found[:, 0, 0, 0], torch.tensor(arr).float()[[4, 1]])


def test_a_network_wrapped_once_is_not_wrapped_again():
    diffusion = chain("10")
    wrapped = diffusion._wrap_model(lambda x, t: t)
    assert isinstance(wrapped, respace._WrappedModel) and diffusion._wrap_model(wrapped) is wrapped
    assert wrapped(None, torch.tensor([0, 9])).tolist() == [0, 999]
    again = respace._WrappedModel(lambda x, t: t, [0, 500, 999], True, 2000)
    assert again(None, torch.tensor([1, 2])).tolist() == [250, 499.5]


def test_a_method_that_training_does_not_call_cannot_be_overridden():
    with pytest.raises(TypeError, match=r"Mine._anneal_lr .* learning_rate"):
        type("Mine", (train_util.TrainLoop,), {"_anneal_lr": lambda self: None})

"""The objectives of a study: what each is told, how it is sampled, and keys that stay."""

import dataclasses
import itertools

import pytest
import torch
from studies import flags_of, models_of, parse

from flatdiff.flags import config
from flatdiff.models.factories import create_chain
from flatdiff.models.generate import sample_images
from flatdiff.study import objectives

SEVERAL = "ddpm,ddpm predicts=v,flow, flow  predicts=x,edm sigma_max=40 sigma_data=0.4"
NAMES = ["ddpm", "ddpm predicts=v", "flow", "flow predicts=x", "edm sigma_max=40 sigma_data=0.4"]
DIGITS = ("--preset", "digits", "--lr_anneal_steps", 0)


def test_an_objective_is_an_axis_beside_the_others(data):
    pertub = ("--input_pertub", "0,0.1", "--average", "ema")
    models = models_of(data, "--objective", SEVERAL, "--gradient", "adam,adam-sam", *pertub)
    trainings = [m.training for m in models]
    assert list(dict.fromkeys(t.objective for t in trainings)) == NAMES
    kinds = itertools.product(
        NAMES, ["adam", "adam-sam rho=0.1", "adam 2x steps"], (0, 0.1), (0, 1)
    )
    found = [(t.objective, t.gradient, t.input_pertub, t.seed) for t in trainings]
    assert found == list(kinds) and len({t.cell.key for t in trainings}) == len(found)
    assert models[0].name == "ddpm adam ema, seed 0"
    told = {t.objective: t.cell.flags for t in trainings if t.input_pertub}
    names = {f.name for f in dataclasses.fields(config.DiffusionFlags)} - {"input_pertub"}
    assert [{k: v for k, v in told[n].items() if k in names} for n in NAMES] == [
        {},
        {"predicts": "v"},
        {"objective": "flow"},
        {"objective": "flow", "predicts": "x"},
        {"objective": "edm sigma_max=40", "sigma_data": 0.4},
    ]


KEPT = {  # of a study of the first kind, before there were objectives
    "train": "2536a9b4ea7a",
    "samples_20": "9125aa027f01",
    "reference": "0781af6479f9",
    "fd_20": "57e8420e5273",
    "samples_100": "b6d1367ebfd5",
    "fd_100": "724fa13fe279",
    "samples_20_w8": "26c2d78bc212",
    "fd_20_w8": "466ae303e16f",
    "samples_20_w4": "19a3161f6e99",
    "fd_20_w4": "177d5d7fe9c5",
    "LPF": "6d1d39a9515a",
    "LPF filter": "21d4ed2817cc",
    "MC": "ce16f50c2175",
    "HESSIAN": "d2aa05a51a13",
    "exposure": "c5e505ae03f0",
    "floor": "9ae7c302d1f7",
}


def test_what_was_kept_before_there_were_objectives_is_found(data):
    """Keys are written down; a study over several has those of ddpm alone among its own."""
    few = ("--gradient", "adam", "--seeds", 1, "--average", "ema")
    (alone,) = models_of(data, *few)
    (named,) = models_of(data, *few, "--objective", "ddpm")
    (sampled,) = models_of(data, *few, "--sampler", "ddpm")
    first, *_ = models_of(data, *few, "--objective", "ddpm,flow")
    for model in (alone, named, sampled, first):
        found = {name: cell.key for name, cell in model.cells.items() if name in KEPT}
        assert found | {"train": model.training.cell.key} == KEPT
    assert (alone.training.objective, alone.calls) == ("", {})


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("--objective", "flow predict=x"), "'predict' is no flag of the chain"),
        (("--objective", "flow predicts=F"), "got 'F', expected one of"),
        (("--objective", "flow input_pertub=0.1"), "'input_pertub' is no flag"),
        (("--objective", "flow timestep_respacing=5"), "'timestep_respacing' is no flag"),
        (("--objective", "edm predicts=x"), "--predicts x is not for --objective edm"),
        (("--objective", "ddpm,flow", "--learn_sigma", "True"), "ddpm learn_sigma=True,flow"),
        (("--objective", "flow learn_sigma=True"), "--learn_sigma True is not for .* flow"),
        ((*DIGITS, "--objective", "flow", "--learn_sigma", "True"), "leave it at False"),
        (("--objective", "edm sigma_max=0"), "expected 0 < sigma_min < sigma_max"),
    ],
)
def test_what_an_objective_has_no_use_for_is_said(data, argv, message):
    with pytest.raises(ValueError, match=message):
        models_of(data, *argv)


@pytest.mark.parametrize("flag", ["--objective", "--sampler"])
def test_a_misspelt_name_is_said_by_the_command_line(flag, capsys):
    with pytest.raises(SystemExit):
        parse(flag, {"--objective": "ddpm,flwo predicts=x", "--sampler": "eular"}[flag])
    meant = {"--objective": "flow", "--sampler": "euler"}[flag]
    assert f"did you mean {meant}?" in capsys.readouterr().err


def test_a_preset_keeps_its_own_flags_for_ddpm(data):
    flags = flags_of(data, *DIGITS, "--objective", "ddpm,flow,edm")
    ddpm, flow, edm = objectives.objectives(flags).values()
    assert (ddpm.learn_sigma, ddpm.noise_schedule) == (True, "cosine")
    for other in (flow, edm):
        assert (other.learn_sigma, other.noise_schedule) == (False, "linear")
    told = "learn_sigma True, noise_schedule cosine are of ddpm alone: not for flow, edm"
    assert told in objectives.told(flags)
    assert objectives.told(flags_of(data, *DIGITS)) == ""
    both = flags_of(data, *DIGITS, "--objective", "ddpm,flow", "--learn_sigma", "False")
    assert not any(chain.learn_sigma for chain in objectives.objectives(both).values())
    assert "noise_schedule cosine is of ddpm alone: not for flow" in objectives.told(both)


def test_who_learns_the_variance_and_how_samples_came_about_is_said(data):
    assert objectives.notes(flags_of(data, "--learn_sigma", "True")) == []
    left, ways, learned = objectives.notes(flags_of(data, *DIGITS, "--objective", "ddpm,flow"))
    assert "not for flow." in left and "ddpm by ddpm; flow by euler" in ways
    assert learned.endswith("by ddpm alone.")
    plain = flags_of(data, "--objective", "ddpm,flow", "--sampler", "euler,heun")
    ways, learned = objectives.notes(plain)
    assert "drawn by euler and heun, " in ways and learned == "No network learns the variance."
    assert len(objectives.notes(flags_of(data, "--sampler", "heun"))) == 2


# How they are sampled


def test_each_objective_has_a_sampler_of_its_own(data):
    few = ("--objective", "ddpm,flow", "--average", "ema", "--seeds", 1, "--gradient", "adam")
    ddpm, flow = models_of(data, *few, "--sampling_steps", "4,9")
    assert "sampler" not in ddpm.cells["samples_4"].flags
    for name in ("samples_4", "samples_9", "samples_4_w8", "exposure"):
        assert flow.cells[name].flags["sampler"] == "euler"
    assert "sampler" not in flow.cells["LPF"].flags
    assert flow.calls == ddpm.calls == {"fd_4": 4, "fd_9": 9, "fd_4_w8": 4, "fd_4_w4": 4}


def test_samplers_share_a_training_and_have_distances_of_their_own(data):
    few = ("--sampler", "euler,heun", "--sampling_steps", "3,5", "--bits", "4")
    model = models_of(data, *few, "--gradient", "adam")[0]
    names = ["fd_3", "fd_5", "fd_3_heun", "fd_5_heun", "fd_3_w4"]
    assert [n for n in model.cells if n.startswith("fd_")] == names
    assert len({model.cells[n].key for n in names}) == 5
    assert model.calls == {"fd_3": 3, "fd_5": 5, "fd_3_heun": 5, "fd_5_heun": 9, "fd_3_w4": 3}
    told = {n: c.flags["sampler"] for n, c in model.cells.items() if n.startswith("samples_")}
    assert set(told.values()) == {"euler", "heun"} and told["samples_3_w4"] == "euler"


class Counting(torch.nn.Module):
    """A network that is always silent, and counts."""

    def __init__(self, channels):
        super().__init__()
        self.weight, self.count, self.channels = torch.nn.Parameter(torch.ones(1)), 0, channels

    def forward(self, x, t, **_):
        self.count += 1
        return x.new_zeros(len(x), self.channels, *x.shape[2:])


@pytest.mark.parametrize("sampler", ["ddpm", "ddim eta=0.5", "dpmpp", "euler", "heun"])
@pytest.mark.parametrize("objective", SEVERAL.split(","))
def test_calls_are_those_that_sampling_takes(data, objective, sampler):
    flags = flags_of(data, "--objective", objective, "--noise_schedule", "linear")
    (chain,) = objectives.objectives(flags).values()
    chain = dataclasses.replace(chain, learn_sigma=objective == "ddpm")
    network = Counting(6 if chain.learn_sigma else 3)
    walked = create_chain(vars(chain) | {"timestep_respacing": "7"})
    sample_images(network, walked, [0, 1], (3, 8, 8), sampler=sampler)
    assert objectives.calls(chain, 7, sampler) == network.count
    assert network.count == 7 or sampler == "heun"


@pytest.mark.parametrize("steps", [2, 3, 5, 10, 18])
def test_heun_calls_its_network_as_often_as_karras_et_al_say(steps):
    """2 N - 1 times for N steps, where every step but the last is corrected (section 3)."""
    for objective in ("flow", "edm"):
        chain = config.DiffusionFlags(objective=objective)
        assert objectives.calls(chain, steps, "heun") == 2 * steps - 1
        with pytest.raises(ValueError, match="keeps 1 of 1000 timesteps; expected two"):
            objectives.calls(chain, 1, "heun")

"""The axes of a study: what is refused, what each gradient costs, and its training."""

import dataclasses

import pytest
from studies import flags_of, models_of, parse

from flatdiff.flags import choices, config
from flatdiff.study import axes
from flatdiff.train.climbing import num_ascent
from flatdiff.train.train_util import learning_rate


@pytest.mark.parametrize("flag", ["eps_scaler", "eps_scaler_slope", "timestep_respacing", "resume"])
def test_flags_that_a_study_would_drop_are_refused(data, flag):
    with pytest.raises(ValueError, match=f"--{flag} is not for studies: "):
        models_of(data, f"--{flag}", 2)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("--gradient", "adam,adam-sm"), "did you mean adam-sam"),
        (("--gradient", "adam-sam sam_synk=True"), "'sam_synk' is no flag of training"),
        (("--gradient", "adam-sam end_step=3.5"), "expected a whole number"),
        (("--gradient", "adam-sam-loss rho=0.1"), "finds its radius itself: leave rho out"),
        (("--gradient", "adam lr_anneal_steps=20"), "lr falls to 0 at lr_anneal_steps 20, but"),
        (("--gradient", ","), "--gradient is empty"),
        (("--rho", "0.1,big"), "--rho is '0.1,big'; expected numbers"),
        (("--input_pertub", "-1"), "--input_pertub is '-1'"),
        (("--average", "none,emma"), "got 'emma', expected none, ema, swa"),
        (("--average", ""), "--average is empty"),
        (("--ema_rate", ""), "--ema_rate is empty"),
        (("--lr_anneal_steps", 40), "leave swa out"),
        (("--end_step", 0), "no end of training"),
        (("--sampling_steps", ""), "--sampling_steps is empty"),
        (("--checkpoints", 3, "--keep_last", 2), "but --keep_last 2 deletes the older ones"),
        (("--bits", "8,four"), "--bits is '8,four'"),
        (("--optimizer", "adam-sam"), "--gradient says what is trained"),
        (("--data_dir", "nowhere"), "nowhere"),
    ],
)
def test_what_makes_no_sense_is_said(data, argv, message):
    with pytest.raises(ValueError, match=message):
        models_of(data, *argv)


@pytest.mark.parametrize(
    ("argv", "features"),
    [
        ((), "lite0"),
        (("--preset", "digits"), "digits"),
        (("--preset", "digits", "--data_dir", "x"), "lite0"),
        (("--inception_weights", "x.pth"), "inception"),
        (("--inception_weights", "x.pth", "--features", "lite0"), "lite0"),
    ],
)
def test_features_by_what_was_given(argv, features):
    assert axes.features_of(parse(*argv)) == features


@pytest.mark.parametrize(
    ("gradient", "matched"),
    [
        ("adam,adam-sam sam_every=5", ["adam 1.2x steps"]),
        ("adam,adam-sam sam_start=20,adam-sam", ["adam 1.5x steps", "adam 2x steps"]),
        ("adam,adam-sam batch_size=2,adam-sam end_step=20", ["adam 4x steps"]),
        ("adam,adam-msam", []),
        ("adam-msam", ["adam"]),
        ("adam,adam-sam rho=0", []),
        ("adam,adam end_step=80,adam-sam", []),
        ("adam,adam-sam-loss rise=0.1,adam-random,adam-sam-down", ["adam 2x steps"]),
        ("adam,adam-fsam rho=0.1 lr_anneal_steps=40", ["adam lr_anneal_steps=40 2x steps"]),
        ("adam-sam rho=1 base_optimizer=sgd lr=0.1", ["adam 2x steps"]),
        ("adam-sam rho=1 end_step=60 lr_anneal_steps=60", ["adam lr_anneal_steps=40 3x steps"]),
    ],
)
def test_each_cost_has_its_adam(data, gradient, matched):
    models = models_of(data, "--gradient", gradient, "--lr_anneal_steps", 0)
    kinds = {m.training.gradient: m.training for m in models}
    asked = [g for g in kinds if g.partition(" rho")[0] in gradient.split(",")]
    assert [g for g in kinds if g not in asked and "rho" not in g] == matched
    for sam in (t for t in kinds.values() if t.climbs):
        nearest = min(abs(t.cost / sam.cost - 1) for t in kinds.values() if not t.climbs)
        assert nearest <= 0.02


def test_what_all_gradients_share_is_in_no_name(data):
    gradient = "adam lr_anneal_steps=40,adam-sam lr_anneal_steps=40,adam-random lr_anneal_steps=40"
    names = {m.training.gradient for m in models_of(data, "--gradient", gradient)}
    assert names == {"adam", "adam-sam rho=0.1", "adam-random rho=0.1", "adam 2x steps"}
    one = models_of(data, "--gradient", "adam-sam lr=0.1", "--matched", False)
    assert {m.training.gradient for m in one} == {"adam-sam lr=0.1 rho=0.1"}


@pytest.mark.parametrize("every", [1, 3, 5])
@pytest.mark.parametrize("start", [0, 7, 50])
def test_passes_are_those_that_the_loop_takes(every, start):
    train = dataclasses.replace(
        config.TrainFlags(), optimizer="adam-sam", end_step=20, sam_every=every, sam_start=start
    )
    climbs = [s for s in range(20) if s >= start and (s - start) % every == 0]
    half = dataclasses.replace(train, sam_share=0.5, batch_size=8)
    assert axes.passes(train) == pytest.approx(1 + len(climbs) / 20)
    assert axes.passes(half) == pytest.approx(1 + len(climbs) / 40)
    third = dataclasses.replace(train, sam_share=0.3, batch_size=4)  # 2 whole images of 4
    assert axes.passes(third) == pytest.approx(1 + len(climbs) / 40)
    assert num_ascent(0.3, 4) == 2
    assert axes.passes(dataclasses.replace(train, optimizer="adam-msam")) == 1
    assert axes.passes(dataclasses.replace(train, rho=0.0)) == 1


def test_averages_are_of_one_training_which_they_leave_alone(data):
    flags = flags_of(data)
    train = axes.train_group(flags, {"optimizer": "adam"})
    assert (train.use_swa, train.swa_start, train.swa_window) == (True, 30, 1)
    rates = {
        learning_rate(s, lr=train.lr, anneal_steps=train.lr_anneal_steps, window=1, start=30)
        for s in range(40)
    }
    assert rates == {train.lr}
    annealed = ("--average", "none,ema", "--lr_anneal_steps", 40)
    flags = flags_of(data, *annealed)
    twice = axes.train_group(flags, {"optimizer": "adam", "times": 2.0})
    assert (twice.use_swa, twice.lr_anneal_steps, twice.end_step) == (False, 80, 80)
    files = {m.average: m.cells["LPF"].aside["model_path"] for m in models_of(data)[:3]}
    assert {a: f.rpartition("/")[2] for a, f in files.items()} == {
        "none": "model000040.pt",
        "ema": "ema_0.9999_000040.pt",
        "swa": "swa_000040.pt",
    }
    assert len({f.rpartition("/")[0] for f in files.values()}) == 1


def test_a_gradient_has_the_price_that_its_line_says(data, register):
    def gradient(closure, weights, *, scale: float = 1.0):
        return closure()

    line = choices.Gradient("toys:it", "three", passes=3)
    register(choices.GRADIENTS, "adam-toy", line, gradient)
    models = models_of(data, "--gradient", "adam,adam-toy scale=2", "--rho", "0.1")
    trainings = {m.training.gradient: m.training for m in models}
    assert list(trainings) == ["adam", "adam-toy scale=2 rho=0.1", "adam 3x steps"]
    plain, toy, matched = trainings.values()
    assert toy.cost == matched.cost == 3 * plain.cost
    assert toy.cell.flags["optimizer"] == "adam-toy scale=2"


def test_a_climb_by_loss_is_not_crossed_with_radii(data):
    models = models_of(data, "--gradient", "adam,adam-sam-loss,adam-sam", "--rho", "0.1,0.2")
    trainings = {m.training.gradient: m.training for m in models}
    asked = ["adam", "adam-sam-loss", "adam-sam rho=0.1", "adam-sam rho=0.2", "adam 2x steps"]
    assert list(trainings) == asked
    assert trainings["adam-sam-loss"].climbs and "rho" not in trainings["adam-sam-loss"].cell.flags


def test_a_rate_that_falls_to_zero_is_an_arm(data):
    """Beside arms of a constant rate: these have SWA, and it has none."""
    models = models_of(data, "--gradient", "adam,adam lr_anneal_steps=40", "--seeds", 1)
    found = [(m.training.gradient, m.average) for m in models]
    annealed = "adam lr_anneal_steps=40"
    assert found == [
        *(("adam", average) for average in ("none", "ema", "swa")),
        *((annealed, average) for average in ("none", "ema")),
    ]
    plain, last = models[0].training.cell, models[-1].training.cell
    assert last.flags["lr_anneal_steps"] == 40 and "use_swa" not in last.flags
    assert plain.key == models_of(data)[0].training.cell.key


def test_a_gradient_is_compared_with_those_that_take_its_steps():
    others = ["adam", "adam lr_anneal_steps=40", "adam base_optimizer=sgd lr=0.1 2x steps"]
    for name, i in (("adam-sam rho=0.1", 0), ("adam-sam lr_anneal_steps=40 rho=0.1", 1)):
        assert axes.alike(name, others) == [others[i]]
    assert axes.alike("adam-sam rho=0.1 lr=0.1 base_optimizer=sgd", others) == others[2:]
    assert axes.alike("adam-sam lr=5", others) == others

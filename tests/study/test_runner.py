"""Studies as users run them: two cells end to end, a kill, a failure, a cluster's stand-in."""

import csv
import json
import os
import re
import signal
import sys
import time
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from launch import ROOT, run, running, start

from flatdiff.flags import config
from flatdiff.study import runner
from flatdiff.study.matrix import Cell
from flatdiff.world import stopping

pytestmark = pytest.mark.slow

TINY = (
    "--image_size 8 --num_channels 32 --channel_mult 1 --num_res_blocks 1 --learn_sigma True "
    "--attention_resolutions 4 --diffusion_steps 20 --noise_schedule cosine --lr 1e-3 "
    "--batch_size 4 --ema_rate 0.9 --random_flip False --num_workers 0 --save_interval 5 "
    "--log_interval 5 --end_step 40 --gradient adam --average none --seeds 1 --features digits "
    "--num_samples 20 --num_images 6 --num_draws 4 --sampling_steps 3 --bits 4 --sigma 0.01 "
    "--radius 1"
).split()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
    np.savez(folder / "images.npz", arr_0=images)
    return folder / "images.npz"


def command(data, log_dir, *more):
    script = ROOT / "scripts/study.py"
    return [sys.executable, script, "--data_dir", data, "--log_dir", log_dir, *TINY, *more]


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """The folder of a study of one training and its measurements, and what it said."""
    folder = tmp_path_factory.mktemp("whole")
    done = run(command(data, folder))
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout


def cell(folder, kind):
    """The folder of the first cell of its kind."""
    return min(
        (folder / "cells").glob(f"{kind}-*"), key=lambda path: os.path.getmtime(path / "cell.json")
    )


def test_two_cells_end_to_end(whole):
    folder, said = whole
    assert "train adam, seed 0" in said and "measure adam none, seed 0" in said
    with open(folder / "study.csv") as file:
        (row,) = csv.DictReader(file)
    assert (row["gradient"], row["average"], row["images"]) == ("adam", "none", "160")
    found = json.loads((cell(folder, "LPF") / "flatness.json").read_text())["LPF"]["rows"]
    first = next(r for r in found if (r["term"], r["part"]) == ("mse", "all"))
    assert float(row["lpf"]) == first["rise"] and float(row["loss"]) == first["at_w"]
    assert float(row["rise_w4"]) == pytest.approx(float(row["fd_3_w4"]) - float(row["fd_3"]))
    assert float(row["eigenvalue"]) and float(row["gap_start"]) >= 0
    assert float(row["lpf_filter"]) not in (0, float(row["lpf"])) and float(row["fd_3_infinity"])
    assert float(row["noise_norm"]) == pytest.approx((3 * 8 * 8) ** 0.5)
    gap = abs(float(row["sampling_start"]) - float(row["training_start"]))
    assert float(row["gap_start"]) == pytest.approx(gap)
    bias = json.loads((cell(folder, "exposure") / "result.json").read_text())
    gaps = bias["models"][0]["gap"]["value"]
    assert float(row["gap_mean"]) == pytest.approx(np.abs(gaps[1:]).mean())  # not the first again
    told = json.loads((folder / "study.json").read_text())
    assert told["settings"]["flags"]["train"]["end_step"] == 40 and told["settings"]["command"]
    text = (folder / "report.md").read_text()
    assert "FD-digits, 3 steps" in text
    floor = json.loads((cell(folder, "floor") / "result.json").read_text())["floor"]
    (real,) = [line for line in text.splitlines() if line.startswith("| 20 real images")]
    assert len(floor["values"]) == 10 and f"{np.mean(floor['values']):.2f}" in real
    figures = re.findall(r"\]\((.*?)\)", text)
    assert len(figures) == 4 + 2 and all((folder / path).exists() for path in figures)


class Sources(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found, self.tags = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.found += [v for k, v in attrs if k in ("src", "href")]


def test_jobs_of_two_ranks(data, tmp_path):
    few = ("--ranks", 2, "--end_step", 5, "--average", "ema", "--store", tmp_path / "store")
    done = run(command(data, tmp_path, *few))
    logs = "".join(path.read_text() for path in tmp_path.glob("jobs/*.log"))
    assert done.returncode == 0, done.stdout + done.stderr + logs
    with open(tmp_path / "study.csv") as file:
        (row,) = csv.DictReader(file)
    assert row["images"] == "40" and all(row.values())
    assert len(list((tmp_path / "store").iterdir())) == 1 + 14 and not (tmp_path / "cells").exists()


def test_the_page_stands_alone(whole):
    page = (whole[0] / "report.html").read_text()
    sources = Sources()
    sources.feed(page)
    assert len(sources.found) == 4 + 2  # figures and grids of samples
    assert all(re.match("data:image/(png|svg)", source) for source in sources.found)
    assert not {"script", "link", "iframe"} & set(sources.tags)
    assert 'name="viewport"' in page and "@media print" in page


def test_what_is_done_is_not_done_again(data, whole):
    folder, _ = whole
    before = {p: p.stat().st_mtime_ns for p in (folder / "cells").rglob("*") if p.is_file()}
    done = run(command(data, folder))
    assert "2 of 2 jobs are done already" in done.stdout
    assert before == {p: p.stat().st_mtime_ns for p in before}
    listed = run(command(data, folder, "--dry_run", "True", "--sigma", "0.02")).stdout
    assert "done  train adam, seed 0" in listed and "left  measure adam none" in listed
    text = (folder / "report.md").read_text()
    assert "1 of 14 measurements are missing" in text and "dry_run" not in text
    assert run(command(data, folder, "--sigma", "0.02")).returncode == 0
    results = {p: t for p, t in before.items() if p.name == "result.json"}
    assert results == {p: p.stat().st_mtime_ns for p in results}
    assert len(list((folder / "cells").glob("LPF-*/result.json"))) == 4


def test_a_study_over_objectives_from_one_command(data, whole, tmp_path):
    """One that the first study trained already is found; losses stand beside log-SNR."""
    own = "ddpm learn_sigma=True noise_schedule=cosine"
    several = ["--learn_sigma", "False", "--noise_schedule", "linear", "--bits", ""]
    several += ["--objective", f"{own},flow"]
    store = ("--store", whole[0] / "cells", "--sampler", "euler,heun")
    done = run(command(data, tmp_path, *several, *store))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"train {own} adam" not in done.stdout  # the kept one
    with open(tmp_path / "study.csv") as file:
        ddpm, flow = csv.DictReader(file)
    assert (ddpm["objective"], flow["objective"]) == (own, "flow")
    assert (flow["calls_3"], flow["calls_3_heun"]) == ("3", "5")
    for row in (ddpm, flow):
        assert float(row["fd_3"]) != float(row["fd_3_heun"])
        assert float(row["x_mse"]) > 0 and row["x_rise"] and row["x_rise_filter"]
    text = (tmp_path / "report.md").read_text()
    assert "## Across objectives" in text and "Of 0 claims" not in text
    assert "FD-digits, 3 steps of heun" in text
    assert (
        "The variance is learned, by a last layer twice as wide, by ddpm learn_sigma=True" in text
    )
    figures = re.findall(r"\]\((.*?)\)", text)
    assert {"figures/log_snr.svg", "figures/calls.svg"} <= set(figures)
    assert all((tmp_path / path).exists() for path in figures)
    trained = [json.loads(p.read_text()) for p in whole[0].glob("cells/train-*/config.json")]
    chains = {c["diffusion"]["objective"]: c["diffusion"]["learn_sigma"] for c in trained}
    assert chains == {"ddpm": True, "flow": False}


def test_a_killed_study_goes_on_to_the_same_numbers(data, whole, tmp_path):
    process = start(command(data, tmp_path))
    wait_for(lambda: list(tmp_path.glob("cells/train-*/state000010.pt")), process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    trained = cell(tmp_path, "train")
    assert not (trained / "result.json").exists(), "it was over before it was killed"
    for job in running(f"train-{trained.name.rpartition('-')[2]}.json"):
        os.kill(job, signal.SIGKILL)
    done = run(command(data, tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "going on from" in (trained / "log.txt").read_text()
    a, b = (
        torch.load(cell(folder, "train") / "model000040.pt", weights_only=True)
        for folder in (tmp_path, whole[0])
    )
    assert all(torch.equal(a[name], b[name]) for name in a)
    for kind in ("LPF", "distance"):
        results = [
            {
                p.parent.name: p.read_text().replace(str(folder), "")
                for p in folder.glob(f"cells/{kind}-*/result.json")
            }
            for folder in (tmp_path, whole[0])
        ]
        assert results[0] and all(
            without_caches(text) == without_caches(results[1][name])
            for name, text in results[0].items()
        )


def without_caches(text):
    return re.sub(r'"reference_cache": ".*?"', "", text)


def wait_for(ready, process):
    for _ in range(6000):
        if ready():
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    raise AssertionError("it did not come")


# Without networks


def jobs_in(tmp_path):
    """A training and what waits for it, with no model behind them."""
    cells = [Cell(kind, {}, {}, str(tmp_path / "cells")) for kind in ("train", "LPF")]
    training = SimpleNamespace(gradient="adam", input_pertub=0, seed=0, cost=1.0, cell=cells[0])
    return [SimpleNamespace(name="adam none, seed 0", average="none", training=training,
                            cells={"LPF": cells[1]})]  # fmt: skip


def flags_of(tmp_path, **study):
    own = config.StudyFlags(jobs=1, ranks=1, **study)
    about = {"run": SimpleNamespace(log_dir=str(tmp_path)), "data": config.DataFlags()}
    return SimpleNamespace(study=own, **about)


FINISH = """
import json, os, sys
for cell in json.load(open(sys.argv[3]))["cells"]:
    os.makedirs(cell["folder"], exist_ok=True)
    with open(os.path.join(cell["folder"], "result.json"), "w") as file:
        file.write("{}")
"""


def test_a_failed_job_is_named_with_its_log_and_what_waits_is_left(tmp_path, capsys, monkeypatch):
    failing = [sys.executable, "-c", "raise SystemExit('it broke')"]
    monkeypatch.setattr(runner, "FLATDIFF", failing)
    told = runner.run(jobs_in(tmp_path), flags_of(tmp_path))
    assert "1 jobs failed, and 1 that wait for them were not begun: train adam, seed 0" in told
    log = re.search(r"see (.*?)\)", told)[1]
    with open(log) as file:
        assert "it broke" in file.read()
    monkeypatch.setattr(runner, "FLATDIFF", [sys.executable, "-c", "raise SystemExit(75)"])
    with pytest.raises(stopping.Stopped):  # as its job, which was asked to end
        runner.run(jobs_in(tmp_path), flags_of(tmp_path))
    assert "1 left, 1 stopped" in capsys.readouterr().out
    monkeypatch.setattr(runner, "FLATDIFF", [sys.executable, "-c", FINISH])
    assert runner.run(jobs_in(tmp_path), flags_of(tmp_path)) == ""
    assert "2 done" in capsys.readouterr().out


def test_a_cluster_gets_each_job_as_soon_as_it_can_run(tmp_path, capsys, monkeypatch):
    pytest.importorskip("submitit")
    monkeypatch.setattr(runner, "FLATDIFF", [sys.executable, "-c", FINISH])
    flags = flags_of(tmp_path, cluster="local", cluster_options="timeout_min=5")
    assert runner.run(jobs_in(tmp_path), flags) == ""
    told = capsys.readouterr().out
    assert told.index("train adam, seed 0") < told.index("measure adam none, seed 0")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "no --log_dir"),
        (["--log_dir", "here"], "no data: give --data_dir"),
        (["--log_dir", "here", "--cluster", "slurm", "--dtype", "auto"], "give --dtype fp32"),
        (["--log_dir", "here", "--data_dir", "nowhere", "--end_step", "1"], "nowhere"),
        (["--log_dir", "here", "--preset", "digits", "--mem", "8G"], "--cluster slurm: give that"),
    ],
)
def test_what_is_missing_is_one_sentence(argv, message, tmp_path):
    done = run([sys.executable, ROOT / "scripts/study.py", *argv], OPENAI_LOGDIR="")
    assert done.returncode == 1
    assert message in done.stderr and "Traceback" not in done.stderr

"""What a file of samples says of itself, read by others than us."""

import json
import shlex
import zipfile
from pathlib import Path

import numpy as np
import pytest
import small

from flatdiff.flags import config
from flatdiff.judge import settings
from flatdiff.models import generate, networks, run_util
from flatdiff.store import checkpoint, lock

GROUPS = {
    "sample": config.SampleFlags,
    "run": config.RunFlags,
    "diffusion": config.DiffusionFlags,
    "model": config.ModelFlags,
    "train": config.TrainFlags,
}


@pytest.fixture
def sample(tmp_path):
    """A function of flags that draws two images as scripts/image_sample.py does; the npz's path."""
    model, diffusion = small.groups()
    path = small.save_run(tmp_path / "run", small.network()[0], model=model, diffusion=diffusion)

    def draw(line):
        words = f"--model_path {path} --num_samples 2 --log_dir {tmp_path}/run {line}"
        flags = config.parse("", shlex.split(words), **GROUPS)
        with lock.scope():
            folder = run_util.open_log(flags)
            network, chain = networks.from_checkpoint(flags.sample.model_path, flags)
            sample = generate.sampler(network, chain, flags)
            generate.save_samples(sample, flags, folder, image_size=8, steps=chain.num_timesteps)
        return tmp_path / "run" / "samples_2x8x8x3.npz"

    return draw


def test_the_record_stands_beside_and_inside_and_says_what_made_it(sample, tmp_path):
    path = sample("--timestep_respacing 4 --sampler ddim --seed 3 --eps_scaler 1.01")
    beside = json.loads(path.with_suffix(".json").read_text())
    with np.load(path) as file:
        assert file.files == ["arr_0", "record"] and file["arr_0"].shape == (2, 8, 8, 3)
        assert json.loads(str(file["record"])) == beside
    weights = tmp_path / "run" / "model000000.pt"
    wanted = {"checkpoint": str(weights), "sampler": "ddim", "steps": 4, "seed": 3, "bits": 32}
    wanted |= {"eps_scaler": 1.01, "num_samples": 2, "file": path.name}
    assert {k: beside[k] for k in wanted} == wanted
    assert beside["key"]["files"][0][0] == checkpoint.sha256(str(weights))
    assert beside["command"] and beside["torch"] and beside["time"]
    assert settings.drawn(str(path)).startswith("sampler ddim, timestep_respacing 4, seed 3")


def test_the_record_as_a_config_draws_the_same_again(sample):
    path = sample("--timestep_respacing 4 --sampler ddim --seed 3")
    before = np.load(path)["arr_0"]
    path.unlink()
    kept = path.with_suffix(".json").rename(path.with_name("kept.json"))
    assert np.array_equal(np.load(sample(f"--config {kept}"))["arr_0"], before)


def test_other_settings_do_not_replace_it_also_those_of_an_older_file(sample):
    path = sample("--timestep_respacing 4")
    kept = path.read_bytes()
    for line in ("--timestep_respacing 2", "--timestep_respacing 4 --eps_scaler 1.1"):
        with pytest.raises(ValueError, match="would be replaced, and it was drawn with --"):
            sample(line)
    assert path.read_bytes() == kept
    sample("--timestep_respacing 4 --batch_size 1")  # the same images
    older(path)
    sample("--timestep_respacing 4")
    older(path)
    with pytest.raises(ValueError, match="--timestep_respacing '4', now '2'"):
        sample("--timestep_respacing 2")


def older(path: Path):
    """The file of before there were records: what it depends on is the comment of the zip."""
    said = settings.comment(str(path))
    np.savez(path, arr_0=np.load(path)["arr_0"])
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = json.dumps(said, sort_keys=True).encode()

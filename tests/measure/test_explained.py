"""--explain of the sampling script."""

import csv

import pytest
from rounded_sampling import parsed

from flatdiff.world import logger


def rows_of(path):
    with open(path) as file:
        return list(csv.DictReader(file))


def test_a_rise_is_explained_as_the_log_has_it(image_sample, folder, tmp_path):
    """By what rounds, and in which layers; weights alone, and gptq knows its images."""
    how = "--quant 3 --quant_granularity channel --quant_skip *_blocks.*,time_embed.*"
    how += " --quant_range gptq --quant_activations 8 --explain True --num_images 8"
    how += " --num_samples 2 --timestep_respacing 2 --quant_calibration 8"
    files = ["--model_path", f"{folder}/runs/a/model000007.pt", "--log_dir", str(tmp_path)]
    files += ["--data_dir", f"{folder}/images.npz"]
    with logger.scoped_configure(dir=str(tmp_path), format_strs=[]):
        image_sample.sample(parsed([*how.split(), *files]))
    log = (tmp_path / "log.txt").read_text()
    (row,) = rows_of(tmp_path / "explained_w3a8.csv")
    assert row["quantizer"] == "gptq granularity=channel symmetric=False group=32"
    distance = float(log.split("distance ||w_q - w||: ")[1].split(",")[0])
    assert float(row["length"]) == pytest.approx(distance, rel=1e-3)
    assert float(row["path"]) == pytest.approx(float(row["rise"]), rel=0.05)
    layers = [layer["layer"] for layer in rows_of(tmp_path / "explained_w3a8_layers.csv")]
    assert "out.2" in layers and not [x for x in layers if x.startswith(("input_", "time_"))]
    assert str(tmp_path / "explained_w3a8.png") in log

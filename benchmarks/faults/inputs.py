"""Small inputs that are whole, made by the project's own scripts, and a command for each script."""

import os
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from .forked import emptied, run

NET = (
    "--image_size 8 --num_channels 32 --channel_mult 1 --num_res_blocks 1 "
    "--attention_resolutions 8 --diffusion_steps 8 --noise_schedule cosine --learn_sigma True"
).split()
CLASSIFIER = (
    "--image_size 8 --num_classes 3 --classifier_width 32 --classifier_depth 1 "
    "--classifier_attention_resolutions 4 --diffusion_steps 8 --noise_schedule cosine"
).split()
TRAIN = (
    "--batch_size 2 --end_step 1 --log_interval 1 --num_workers 0 --random_crop False "
    "--ema_rate 0.9"
).split()
DRAW = "--num_samples 2 --batch_size 2 --timestep_respacing 2".split()
FEW = "--num_images 6 --batch_size 6".split()
LABELS = "--class_cond True --num_classes 3".split()
SAMPLES = "samples_8x8x8x3.npz"


class Inputs:
    """The folder of the inputs; `commands`: script -> the words of a run that is well."""

    def __init__(self, folder: Path):
        self.folder = folder = Path(folder).absolute()
        self.run, self.conditional = folder / "run", folder / "cond"
        self.model, self.packed = self.run / "model000001.pt", folder / "packed.safetensors"
        self.npz, self.zip, self.images = (folder / n for n in ("mini.npz", "mini.zip", "mini"))
        self.samples, self.diffusers = folder / "samples" / SAMPLES, folder / "diffusers"
        self.base, self.super_res = folder / "base.npz", folder / "sr" / "model000001.pt"
        self.classifier = folder / "classifier" / "model000001.pt"
        self.commands = {name: list(map(str, words)) for name, words in self._commands().items()}

    def make(self) -> "Inputs":
        """Write all of them, if an earlier run has not; a RuntimeError where a script fails."""
        os.environ["XDG_CACHE_HOME"] = str(self.folder)
        if (self.folder / "whole").exists():
            return self
        emptied(self.folder)
        self.images.mkdir()
        draw = np.random.default_rng(0)
        pixels = draw.integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
        for i, image in enumerate(pixels):
            Image.fromarray(image).save(self.images / f"{'abc'[i % 3]}_{i:02d}.png")
        np.savez(self.npz, pixels, np.arange(12) % 3)
        np.savez(self.base, pixels[:, ::2, ::2])
        shutil.make_archive(str(self.folder / "mini"), "zip", self.images)
        data = ["--data_dir", str(self.images)]
        trained = [*data, *NET, *TRAIN]
        self._must("scripts/image_train.py", *trained, "--log_dir", self.run)
        self._must("scripts/image_train.py", *trained, *LABELS, "--log_dir", self.conditional)
        sizes = ["--large_size", "8", "--small_size", "4"]
        own = [*NET[2:], *sizes, *TRAIN, "--log_dir", self.super_res.parent]
        self._must("scripts/super_res_train.py", *data, *own)
        own = [*CLASSIFIER, *TRAIN, "--log_dir", self.classifier.parent]
        self._must("scripts/classifier_train.py", *data, *own)
        own = ["--num_samples", "8", *DRAW[2:], "--log_dir", self.samples.parent]
        self._must("scripts/image_sample.py", "--model_path", self.model, *own)
        own = ["--quant", "8", "--save_quantized", self.packed, "--log_dir", self.folder / "q"]
        self._must("scripts/image_sample.py", "--model_path", self.model, *DRAW, *own)
        both = ["--model_path", self.model, "--out_dir", self.diffusers]
        self._must("scripts/export_diffusers.py", *both)
        self._must("evaluations/evaluator.py", *self.commands["evaluations/evaluator.py"])
        (self.folder / "whole").touch()
        return self

    def _must(self, script: str, *words) -> None:
        box = emptied(self.folder / "box")
        ended = run(script, list(map(str, words)), box)
        if ended.kind != "accepted":
            raise RuntimeError(f"{script} {' '.join(map(str, words))}: {ended}")

    def _commands(self) -> dict[str, list]:
        data, model = ["--data_dir", self.npz], ["--model_path", self.model]
        log, made = ["--log_dir", "out"], ["--out_dir", "out/made"]
        few = [*model, *data, *FEW, *log]
        small, large = ["--features", "digits"], ["--image_size", "8"]
        return {
            "scripts/image_train.py": [*data, *NET, *TRAIN, *log],
            "scripts/image_sample.py": [*model, *DRAW, *log],
            "scripts/image_sample_quant.py": [*model, *DRAW, *data, "--num_images", 6, *log],
            "scripts/flatness.py": [*few, "--num_draws", 4, "--sigma", "1e-3"],
            "scripts/exposure_bias.py": [*few, "--timestep_respacing", 3],
            "scripts/image_nll.py": [
                *model,
                *data,
                *"--num_samples 2 --batch_size 2".split(),
                *log,
            ],
            "scripts/super_res_train.py": [
                *(*data, *NET[2:], "--large_size", 8, "--small_size", 4, *TRAIN, *log)
            ],
            "scripts/super_res_sample.py": [
                *("--model_path", self.super_res, "--base_samples", self.base, *DRAW, *log)
            ],
            "scripts/classifier_train.py": [*data, *CLASSIFIER, *TRAIN, *log],
            "scripts/classifier_sample.py": [
                *("--model_path", self.conditional / "model000001.pt", *DRAW, *log),
                *("--classifier_path", self.classifier),
            ],
            "scripts/export_diffusers.py": [*model, *made],
            "scripts/averages.py": [*model, *data, *FEW, *log],
            "scripts/perturbed_samples.py": [
                *(*few, "--moves", "noise", *DRAW[4:], *small),
                *("--num_samples", 50, "--batch_size", 50),
            ],
            "scripts/exposure_bench.py": [*model, *data, *small, *log],
            "scripts/study.py": [
                *(*data, *NET, *TRAIN, "--dry_run", True, "--seeds", 1, *log),
            ],
            "scripts/compare.py": [*("--runs", self.run, "--reference", self.npz, *small, *log)],
            "evaluations/evaluator.py": [
                *(self.npz, self.samples, *small, "--json", "out/told.json")
            ],
            "datasets/to_npz.py": ["--data_dir", self.zip, *large, "--out", "out/made.npz"],
            "datasets/to_zip.py": ["--data_dir", self.images, "--out", "out/made.zip"],
            "datasets/to_images.py": ["--npz", self.npz, *made],
            "datasets/digits.py": made,
            "datasets/ffhq64.py": ["--data_dir", self.images, *large, *made],
            "datasets/cifar10.py": ["--archive", self.zip, *made],
            "datasets/imagenet64.py": ["--data_dir", self.folder, *made],
            "datasets/lsun_tower.py": ["--lmdb", self.folder, *made],
            "datasets/noto_emoji.py": ["--archive", self.zip, *made],
            "datasets/photo_patches.py": ["--image_size", "64", "--split", "test", *made],
        }


def fill(words: list[str], **values) -> list[str]:
    """Words in which some flags have other values; flags that are missing are put behind."""
    words = list(words)
    for name, value in values.items():
        flag, value = f"--{name}", str(value)
        if flag in words:
            at = words.index(flag)
            del words[at : at + 2]
        words += [f"{flag}={value}"]
    return words

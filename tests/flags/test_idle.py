"""Flags that were given and that nothing reads: what is an error, what a line, and what neither."""

import importlib
import shlex
import sys

import pytest
from launch import ROOT

from flatdiff.flags import config, idle

NAMES = [p.stem for p in (ROOT / "scripts").glob("*.py") if "config.run(" in p.read_text()]
PASTED = (  # as in the READMEs of guided-diffusion and improved-diffusion, and ours
    "--image_size 64 --num_channels 128 --num_res_blocks 3 --learn_sigma True --dropout 0.3",
    "--attention_resolutions 32,16,8 --class_cond True --num_head_channels 64 --num_heads 4 "
    "--resblock_updown True --use_new_attention_order True --use_fp16 True "
    "--use_scale_shift_norm True --use_checkpoint False",
    "--diffusion_steps 4000 --noise_schedule cosine --use_kl True --rescale_timesteps True "
    "--rescale_learned_sigmas True --predict_xstart False",
    "--lr 1e-4 --batch_size 128 --microbatch 4 --ema_rate 0.9999 --schedule_sampler uniform "
    "--weight_decay 0.05 --save_interval 10000 --lr_anneal_steps 0 --fp16_scale_growth 1e-3",
    "--iterations 300000 --anneal_lr True --noised True --log_interval 10 --eval_interval 5",
    "--batch_size 4 --num_samples 100 --timestep_respacing 250 --clip_denoised True",
    "--batch_size 4 --num_samples 100 --timestep_respacing ddim25 --use_ddim True",
    "--classifier_scale 1.0 --classifier_attention_resolutions 32,16,8 --classifier_depth 4 "
    "--classifier_width 128 --classifier_pool attention --classifier_use_fp16 True "
    "--classifier_resblock_updown True --classifier_use_scale_shift_norm True",
    "--large_size 256 --small_size 64 --random_crop True --random_flip False",
)


@pytest.fixture(scope="module")
def parsed():
    """A function of a script's name and a line that parses it as the script does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "scripts"))

        def parse(name, line):
            patch.setattr(sys, "argv", [name, *shlex.split(line)])
            found = []

            def run(description, body, check=None, **how):
                found.append(config.parse(description, **how))

            with pytest.MonkeyPatch.context() as inner:
                inner.setattr(config, "run", run)
                importlib.import_module(name).main()
            return found[0]

        yield parse


def known(flags, line):
    """What of the line the script has."""
    words = shlex.split(line)
    names = {f for g in vars(flags).values() if hasattr(g, "__dataclass_fields__") for f in vars(g)}
    pairs = zip(words[::2], words[1::2])
    return " ".join(f"{name} {value}" for name, value in pairs if name[2:] in names)


@pytest.mark.parametrize("name", NAMES)
def test_pasted_strings_go_on_working_in_every_script(parsed, name):
    for line in PASTED:
        line = known(parsed(name, ""), line)
        idle.check(parsed(name, line))
    idle.check(flags := parsed(name, known(flags := parsed(name, ""), " ".join(PASTED))))
    lines = idle.told(flags)
    assert len(lines) == len(set(lines))
    unread = [line for line in lines if "pasted for other commands" in line]
    assert len(unread) == bool(flags.unread)


@pytest.mark.parametrize(
    ("name", "line", "needs"),
    [
        ("image_train", "--rho 0.1", "--rho, which needs a gradient that climbs"),
        ("image_train", "--sam_every 5", "adam-sam"),
        ("image_train", "--optimizer adam-sam --sam_start 9 --end_step 9", "--end_step above it"),
        ("image_train", "--swa_start 9", "--use_swa True"),
        ("image_train", "--swa_window 9", "--use_swa True"),
        ("image_train", "--use_swa True --swa_start 9 --end_step 9", "--end_step above it"),
        ("image_train", "--use_swa True --swa_lr_min 1e-5", "--lr_anneal_steps"),
        ("image_train", "--features digits", "--eval_interval"),
        ("image_train", "--eval_interval 5 --inception_weights a", "--features inception"),
        ("image_train", "--init_from a.pt --resume_checkpoint b.pt", "no --resume_checkpoint"),
        ("classifier_train", "--eval_interval 7", "--val_data_dir"),
        ("image_sample", "--quant_granularity channel", "--quant N"),
        ("image_sample", "--quant 4 --quant_group 8", "--quant_granularity group"),
        ("image_sample", "--quant 8 --quant_calibration 8", "gptq or --quant_act_bins"),
        ("flatness", "--radius 1", "--flatness MC"),
        ("flatness", "--quant_symmetric True", "--quant N"),
        ("flatness", "--num_eigenvalues 3 --sigma 1", "--flatness HESSIAN"),
        ("exposure_bias", "--average_path a.pt", "--move towards"),
        ("perturbed_samples", "--average_path a.pt --moves pruned", "--moves towards"),
        ("compare", "--inception_weights a", "--features inception"),
    ],
)
def test_what_asks_for_another_number_is_an_error(parsed, name, line, needs):
    """And a line, where what would read it was given too, with a value that does not."""
    flags = parsed(name, line)
    if name == "perturbed_samples":  # its moves were given
        return _is_told(flags, needs)
    with pytest.raises(ValueError, match="nothing here would read --.*or leave the flag out") as e:
        idle.check(flags)
    assert needs in str(e.value)


def _is_told(flags, needs):
    idle.check(flags)
    assert any(needs in line for line in idle.told(flags)), idle.told(flags)


@pytest.mark.parametrize(
    ("name", "line", "needs"),
    [
        ("image_train", "--optimizer adam --rho 0.1", "--rho changes nothing here"),
        ("image_train", "--use_swa False --swa_start 9", "--use_swa True"),
        ("image_train", "--sam_every 1", "adam-sam"),  # which is off
        ("image_train", "--timestep_respacing 10", "warning: --timestep_respacing 10 in training"),
        ("image_train", "--eps_scaler 1.1", "sampling"),
        ("image_nll", "--eps_scaler 1.1", "--eps_scaler changes nothing here: it needs sampling"),
        ("flatness", "--eps_scaler_slope 0.1", "needs sampling"),
        ("image_train", "--class_from folder", "--class_cond True"),
        ("image_train", "--fp16_scale_growth 1e-2", "--dtype fp16"),
        ("image_sample", "--lr 0.1 --rho 0.5", "not read: --lr, --rho"),
        ("image_sample", "--dropout 0.1", "training"),
        ("image_sample", "--data_dir a", "--quant N"),
        ("image_sample", "--quant 0 --quant_granularity channel", "--quant N"),
        ("image_sample", "--quant 8 --num_images 9", "--data_dir DIR"),
        ("flatness", "--flatness MC --sigma 1", "--flatness LPF"),
        ("super_res_train", "--image_size 64", "--large_size"),
        ("classifier_train", "--num_channels 64", "not read: --num_channels"),
    ],
)
def test_what_is_harmless_or_meant_is_a_line(parsed, name, line, needs):
    _is_told(parsed(name, line), needs)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("image_train", "--optimizer adam-sam --rho 0.1 --sam_every 5 --sam_start 3 --end_step 9"),
        ("image_train", "--optimizer adam-msam --rho 0.1"),
        ("image_train", "--optimizer adam-sam --sam_start 3"),
        ("image_train", "--use_swa True --swa_window 5 --swa_start 3 --end_step 9"),
        ("image_train", "--use_swa True --lr_anneal_steps 4 --swa_start 5 --swa_lr_min 0"),
        ("image_train", "--eval_interval 5 --features inception --inception_weights a"),
        ("image_train", "--sample_interval 5 --eps_scaler 1.1"),
        ("image_train", "--preset digits --rho 0 --optimizer adam"),
        ("image_train", "--class_cond True --class_from folder --num_classes 3"),
        ("image_sample", "--model_path a.safetensors --quant_granularity channel --data_dir b"),
        ("image_sample", "--quant 8 --quant_granularity group --quant_group 8 --data_dir a"),
        ("image_sample", "--quant 8 --quant_range gptq --quant_calibration 8 --data_dir a"),
        ("image_sample", "--sampler dpmpp --eps_scaler 1.1 --guidance_scale 2"),
        ("flatness", "--sigma 1 --num_draws 4 --noise_scale filter --num_images 9 --data_dir a"),
        ("flatness", "--flatness HESSIAN --num_eigenvalues 3 --num_draws 4 --class_from folder"),
        ("flatness", "--flatness EXPLAIN --bits 4 --layer_bits 0 --num_draws 4"),
        ("exposure_bias", "--move towards --average_path a.pt"),
        ("perturbed_samples", "--average_path a.pt"),
        ("classifier_train", "--val_data_dir a --eval_interval 7 --class_from folder"),
        ("super_res_train", "--large_size 64"),
        ("image_nll", "--data_dir a --num_samples 5"),
    ],
)
def test_what_is_read_is_neither(parsed, name, line):
    flags = parsed(name, line)
    idle.check(flags)
    told = [line for line in idle.told(flags) if "--rho changes nothing" not in line]
    assert not told


def test_a_file_asks_as_a_command_line_does_but_for_its_defaults(parsed, tmp_path):
    (tmp_path / "a.yaml").write_text("rho: 0.1\nswa_start: 0\nlr: 2e-3\n")
    with pytest.raises(ValueError, match="nothing here would read --rho, .*out$"):
        idle.check(parsed("image_train", f"--config {tmp_path}/a.yaml"))
    (tmp_path / "b.yaml").write_text("rho: 0.05\nswa_start: 0\n")
    idle.check(parsed("image_train", f"--config {tmp_path}/b.yaml"))


def test_help_says_what_is_not_read(parsed, capsys):
    with pytest.raises(SystemExit):
        parsed("image_sample", "--help")
    assert "train:\n  Flags of other scripts" in capsys.readouterr().out

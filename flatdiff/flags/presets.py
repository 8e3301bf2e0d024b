"""Published flag strings: what --preset NAME stands for. Most are of guided-diffusion's README."""

import shlex

RELEASED = (
    "--diffusion_steps 1000 --learn_sigma True --resblock_updown True --use_scale_shift_norm True "
)
ADM = f"{RELEASED}--attention_resolutions 32,16,8 "
LARGE = f"{ADM}--noise_schedule linear --num_channels 256 --num_res_blocks 2 "
HEADS_64 = f"{LARGE}--num_head_channels 64 "
UNCONDITIONAL_256 = f"{HEADS_64}--image_size 256 --class_cond False --use_fp16 True"
LSUN_256 = f"{UNCONDITIONAL_256} --dropout 0.1"
UPSAMPLER = (
    f"{RELEASED}--class_cond True --noise_schedule linear --num_channels 192 --num_res_blocks 2 "
    "--use_fp16 True "
)
CLASSIFIER = (
    "--classifier_attention_resolutions 32,16,8 --classifier_width 128 --classifier_pool attention "
    "--classifier_resblock_updown True --classifier_use_scale_shift_norm True "
    "--diffusion_steps 1000 "
)
PAPER_64 = (
    "--image_size 64 --num_res_blocks 3 --attention_resolutions 32,16,8 --resblock_updown True "
    "--use_new_attention_order True --learn_sigma True --dropout 0.1 "
    "--diffusion_steps 1000 --noise_schedule cosine --lr 1e-4 --end_step 200000 "
)

PRESETS = {
    # 64x64_diffusion.pt and so on
    "imagenet64": (
        f"{ADM}--image_size 64 --class_cond True --dropout 0.1 --noise_schedule cosine "
        "--num_channels 192 --num_head_channels 64 --num_res_blocks 3 "
        "--use_new_attention_order True --use_fp16 True"
    ),
    "imagenet128": f"{LARGE}--image_size 128 --class_cond True --num_heads 4 --use_fp16 True",
    "imagenet256": f"{HEADS_64}--image_size 256 --class_cond True --use_fp16 True",
    "imagenet256_uncond": UNCONDITIONAL_256,
    "imagenet512": f"{HEADS_64}--image_size 512 --class_cond True --use_fp16 False",
    # lsun_bedroom.pt and so on
    **dict.fromkeys(("lsun_bedroom", "lsun_cat", "lsun_horse"), LSUN_256),
    # 64_256_upsampler.pt, 128_512_upsampler.pt
    "upsampler64_256": (
        f"{UPSAMPLER}--large_size 256 --small_size 64 --attention_resolutions 32,16,8 --num_heads 4"
    ),
    "upsampler128_512": (
        f"{UPSAMPLER}--large_size 512 --small_size 128 --attention_resolutions 32,16 "
        "--num_head_channels 64"
    ),
    # 64x64_classifier.pt and so on
    "classifier64": f"{CLASSIFIER}--image_size 64 --classifier_depth 4 --noise_schedule cosine",
    "classifier128": f"{CLASSIFIER}--image_size 128 --classifier_depth 2 --noise_schedule linear",
    "classifier256": f"{CLASSIFIER}--image_size 256 --classifier_depth 2 --noise_schedule linear",
    "classifier512": f"{CLASSIFIER}--image_size 512 --classifier_depth 2 --noise_schedule linear",
    # the three of the study of flatness
    "cifar10": (
        "--image_size 32 --num_channels 128 --num_res_blocks 3 --learn_sigma True --dropout 0.3 "
        "--diffusion_steps 1000 --noise_schedule cosine "
        "--lr 1e-4 --batch_size 128 --end_step 200000"
    ),
    "lsun_tower64": (
        f"{PAPER_64}--num_channels 192 --num_head_channels 64 --use_scale_shift_norm True "
        "--rescale_learned_sigmas True --batch_size 32"
    ),
    "ffhq64": f"{PAPER_64}--class_cond False --num_channels 128 --use_fp16 False --batch_size 64",
    # DiT-S (Peebles & Xie 2023) on patches of 4 x 4 pixels, which predicts images, as Li & He 2025
    "vit32": (
        "--network vit --objective flow --predicts x --image_size 32 --patch_size 4 "
        "--num_channels 384 --num_layers 12 --num_heads 6 --diffusion_steps 1000 "
        "--lr 1e-4 --batch_size 128 --end_step 200000"
    ),
    # torchcfm's of CIFAR-10 (Tong et al. 2024) but for coupling, warm-up and clipped gradients; and
    # EDM's DDPM++ (Karras et al. 2022, table 7) as near as this U-Net comes, without augmentation
    "flow32": (
        "--objective flow --image_size 32 --num_channels 128 --channel_mult 1,2,2,2 "
        "--num_res_blocks 2 --attention_resolutions 16 --num_head_channels 64 "
        "--use_scale_shift_norm False --dropout 0.1 --diffusion_steps 1000 "
        "--lr 2e-4 --batch_size 128 --end_step 400000"
    ),
    "edm32": (
        "--objective edm --image_size 32 --num_channels 128 --channel_mult 2,2,2 "
        "--num_res_blocks 4 --attention_resolutions 16 --num_heads 1 --resblock_updown True "
        "--use_scale_shift_norm False --dropout 0.13 --diffusion_steps 1000 "
        "--lr 1e-3 --batch_size 512 --ema_rate 0.99929 --end_step 390625"
    ),
    # handwritten digits of 8 x 8 pixels, as in make demo
    "digits": (
        "--image_size 8 --num_channels 32 --channel_mult 1,2 --num_res_blocks 2 "
        "--attention_resolutions 4 --learn_sigma True --diffusion_steps 1000 "
        "--noise_schedule cosine --lr 1e-3 --batch_size 32 --end_step 1400 "
        "--lr_anneal_steps 1400 --ema_rate 0.99 --random_flip False --log_interval 20 "
        "--save_interval 350 --keep_last 1"
    ),
}

# What scripts/study.py adds to a preset: sizes for two cores and half an hour
STUDIES = {
    "digits": (
        "--end_step 800 --lr_anneal_steps 0 --save_interval 200 --jobs 2 --num_samples 400 "
        "--num_images 128 --num_draws 10 --measure_batch 250"
    )
}


def with_study(argv):
    """The command line, with what a study adds to each preset right behind it."""
    found = []
    for word, before in zip(argv, ["", *argv]):
        name = word if before == "--preset" else word.partition("--preset=")[2]
        found += [word, *shlex.split(STUDIES.get(name, ""))]
    return found

"""Draw images from a checkpoint with its weights rounded to --quant bits: image_sample, with 8.

    python scripts/image_sample_quant.py --model_path runs/a/ema_0.9999_200000.pt --quant 4 \\
        --timestep_respacing 20 --data_dir DIR

Writes samples_NxHxWx3_w4.npz, and quantization_w4.csv with the error of each layer. With --data_dir
the loss is measured before and after; with --explain True also why it rises, and explained_w4.csv
and .png are written. --save_quantized FILE.safetensors keeps the packed weights.
"""

import dataclasses

import image_sample

from flatdiff.flags import config


@dataclasses.dataclass(frozen=True)
class QuantFlags(config.QuantFlags):
    quant: int = config.flag(
        8, "bits of each weight of convolutions and linear layers, 2 to 8; 0: off", fixed=True
    )


if __name__ == "__main__":
    image_sample.main(__doc__, QuantFlags)

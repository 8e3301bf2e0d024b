"""Features of images by name (`names.FEATURES`), and what each kind's distance may be called."""

import contextlib
import functools
import hashlib
import importlib
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from tqdm import tqdm

from . import inception
from .files import default_cache_dir
from .names import FEATURES, metric_name

silent = functools.partial(tqdm, disable=True)  # a bar that is not shown


@dataclass(frozen=True)
class Features:
    """A network, uint8 [N, 3, H, W] -> {"pool": [N, dim]} and maybe "spatial", and its names."""

    name: str
    network: nn.Module
    fingerprint: str  # of the weights, and of how images are brought to them

    @property
    def dim(self) -> int:
        return self.network.dim

    @property
    def resize(self) -> str:
        """Says how images are brought to its size."""
        return getattr(self.network, "resize", "as they are")

    @property
    def device(self) -> torch.device:
        """Says where its weights are: the CPU for a network that has none."""
        return next((p.device for p in self.network.parameters()), torch.device("cpu"))

    def metric(self, kind: str) -> str:
        """What FID, KID, precision or recall is called with these features."""
        return metric_name(self.name, kind)

    def extract(self, images, batch_size: int, progress=silent) -> dict[str, Tensor]:
        """All features of an image source, float32 on the CPU: {"pool": [N, dim], ...}.

        progress: a class of bars, as tqdm."""
        parts = []
        bar = progress(total=images.num_images, desc=images.name, unit="image", leave=False)
        with torch.inference_mode(), _without_tf32(), bar:
            for batch in images.batches(batch_size):
                pixels = torch.tensor(batch, device=self.device).permute(0, 3, 1, 2)
                found = self.network(pixels)
                parts.append({key: value.float().cpu() for key, value in found.items()})
                bar.update(len(batch))
        return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}


def load_features(
    name: str | None = None,
    inception_weights: str | None = None,
    device: str | None = None,
    cache_dir: str | None = None,
    dinov2_weights: str | None = None,
) -> Features:
    """Features by name; by default those whose weights are given. ValueError tells how.

    device: default CUDA if there is one. cache_dir: where a network that is trained here is kept;
    default ~/.cache/flatdiff, "" keeps nothing.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # torch without CUDA
        raise ValueError(f"cannot use the device {device!r}, expected cpu or cuda") from error
    given = {"inception": inception_weights, "dinov2": dinov2_weights}
    name = name or next((name for name, weights in given.items() if weights), None)
    if name is None or (name == "inception" and not inception_weights):
        raise ValueError(how_to_choose())
    if name not in FEATURES:
        raise ValueError(f"unknown features {name!r}; expected one of {', '.join(FEATURES)}")
    module, _, function = FEATURES[name][0].partition(":")
    load = getattr(importlib.import_module(f".{module}", __package__), function)
    cache_dir = default_cache_dir() if cache_dir is None else cache_dir
    network = load(weights=given.get(name), cache_dir=cache_dir)
    fingerprint = _fingerprint(name, network)
    return Features(name, network.requires_grad_(False).to(device), fingerprint)


def how_to_choose() -> str:
    """What there is, for a reader who has chosen nothing."""
    lines = [f"  --features {name:10s} {told}" for name, (_, told) in FEATURES.items()]
    file = f"FILE is {inception.FILE}, 91 MB, from {inception.URL}"
    return "\n".join(["no features were chosen. One of:", *lines, file])


@contextlib.contextmanager
def _without_tf32():
    """TF32 would change the features by 1e-3 of their size."""
    products = torch.backends.cuda.matmul
    before, products.allow_tf32 = products.allow_tf32, False
    try:
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            yield
    finally:
        products.allow_tf32 = before


def _fingerprint(name, network):
    total = hashlib.sha256(name.encode())
    for key, value in network.state_dict().items():
        total.update(key.encode() + value.contiguous().numpy().tobytes())
    return total.hexdigest()

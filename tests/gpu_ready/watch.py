"""Counts what a CUDA device is asked to do: kernels, bytes, FLOPs, waits of the host, layouts.

What lies on the host is real and runs as ever. What lies on the device are fake tensors: shape,
dtype, layout and device without numbers; a number that the host asks for is 1.
"""

import dataclasses
import functools
import math
import traceback
from collections import Counter
from pathlib import Path

import torch
from torch import Tensor
from torch._prims_common import suggest_memory_format
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

LAST = torch.channels_last
MAKERS = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"}
FREE = MAKERS | {"_unsafe_view", "is_pinned", "resize_", "set_", "lift_fresh"}  # and all views
COPIES = {"_to_copy", "copy_", "clone"}
SIZED_BY_VALUES = "nonzero", "masked_select"
# How many kernels one call is on CUDA, where it is not one.
SEVERAL = {"native_group_norm": 2, "native_group_norm_backward": 4, "convolution_backward": 3}
SEVERAL |= {"norm": 2, "norm_backward": 3}  # of a fused norm
SEVERAL |= {f"_scaled_dot_product_{name}_attention_backward": 3 for name in ("flash", "efficient")}
CHUNK = 110  # tensors of one launch of a _foreach or _fused operator


@dataclasses.dataclass(frozen=True)
class Call:
    """An operator that launched kernels; bytes: read and written, each tensor once."""

    name: str
    kernels: int
    bytes: int
    flops: int
    kind: str  # of its FLOPs: conv, attention or matmul
    dtype: str  # of its first floating tensor


class Watch(TorchDispatchMode):
    """Sees each operator that reaches the device, and books what it would cost there."""

    def __init__(self, fake: FakeTensorMode):
        super().__init__()
        self.fake = fake
        self.forget()

    def forget(self) -> None:
        """Begin to count anew."""
        self.calls: list[Call] = []
        self.waits, self.doubles = Counter(), Counter()  # what, and by which lines of code
        self.turned = Counter()  # images whose layout was changed, by operator and lines of code

    @property
    def kernels(self) -> int:
        return sum(call.kernels for call in self.calls)

    @property
    def bytes(self) -> int:
        return sum(call.bytes for call in self.calls)

    @property
    def flops(self) -> dict[str, int]:
        """FLOPs of convolutions, attention and products, by dtype."""
        found = Counter()
        for call in self.calls:
            found[call.dtype] += call.flops
        return {dtype: n for dtype, n in found.items() if n}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func._schema.name.split("::")[1]
        leaves = tree_leaves((args, kwargs))
        tensors = [x for x in leaves if isinstance(x, Tensor)]
        on_device = any(x.is_cuda for x in tensors)
        if not on_device and not any(isinstance(x, torch.device) and is_cuda(x) for x in leaves):
            return tensors[0] if name == "_pin_memory" else func(*args, **kwargs)
        if on_device and (asked := self._asked(name, args, kwargs, tensors)) is not None:
            return asked
        if composite(func):  # in inference mode nothing has taken it apart yet
            with self:
                return func.decompose(*args, **kwargs)
        with self.fake:
            out = func(*args, **kwargs)
        self._book(func, name, args, kwargs, tensors, out)
        return out

    def _asked(self, name, args, kwargs, tensors):
        """What the host gets where it asks for numbers of the device, which it has to wait for."""
        first = tensors[0]
        if name == "_local_scalar_dense":
            self._wait("item")
            return torch.ones((), dtype=first.dtype).item()
        if name == "_to_copy" and not is_cuda(kwargs.get("device", first.device)):
            self._wait("device to host", kwargs)
            return torch.ones(first.shape, dtype=kwargs.get("dtype", first.dtype))
        if name == "copy_" and not first.is_cuda:
            self._wait("device to host", kwargs)
            return first
        if name in SIZED_BY_VALUES:  # half of the values are taken to be wanted
            self._wait(name)
            columns = (first.ndim,) if name == "nonzero" else ()
            dtype = torch.int64 if columns else first.dtype
            return first.new_empty(half_of(first), *columns, dtype=dtype)
        if name in ("index", "index_put_"):
            used = [i for i in args[1] if i is not None]
            if not all(i.is_cuda for i in used):
                self._wait(f"{name} by numbers of the host")
            masks = [i for i in used if i.dtype == torch.bool]
            if masks:
                self._wait(f"{name} by a mask")
            if masks and name == "index":
                return first.new_empty(half_of(masks[0]), *first.shape[masks[0].ndim :])
        return None

    def _book(self, func, name, args, kwargs, tensors, out) -> None:
        results = [x for x in tree_leaves(out) if isinstance(x, Tensor)]
        on_device = [x for x in (*tensors, *results) if x.is_cuda]
        source = args[1] if name == "copy_" else args[0] if tensors else None
        if name in COPIES and isinstance(source, Tensor) and not source.is_cuda:
            self._wait("host to device", kwargs, args)
        written = [x for x in mutated(func, args) if x.is_cuda]
        new = [x for x in results if not any(x is y for y in tensors)]
        if func.is_view or name in FREE or not (written or new):
            return
        where = None
        if any(x.dtype == torch.float64 and x.ndim for x in results):
            where = self.where()
            self.doubles[f"{name} at {where}"] += 1
        if name in COPIES and is_image(source) and is_image(results[0]):
            before, after = map(suggest_memory_format, (source, results[0]))
            if before != after:
                self.turned[f"{name} at {where or self.where()}"] += 1
        read = {id(x): x for x in tensors if x.is_cuda}
        moved = sum(map(size, [*read.values(), *written, *new]))
        many = max((len(a) for a in args if isinstance(a, list | tuple)), default=1)
        listed = name.startswith(("_foreach", "_fused"))
        kernels = math.ceil(many / CHUNK) if listed else SEVERAL.get(name, 1)
        packet, flops = func._overloadpacket, 0
        if packet in flop_registry:
            flops = flop_registry[packet](*args, **kwargs, out_val=out)
        dtypes = [str(x.dtype).removeprefix("torch.") for x in on_device if x.is_floating_point()]
        dtype = dtypes[0] if dtypes else "int"
        self.calls.append(Call(name, kernels, moved, flops, kind_of(name), dtype))
        if name in ("convolution", "convolution_backward"):
            self._turn_images(name, args, dtype)

    def _turn_images(self, name, args, dtype) -> None:
        """cuDNN computes in the layout of channels_last if the image or the weight has it."""
        *images, weight = args[:2] if name == "convolution" else args[:3]
        if weight.ndim != 4 or LAST not in map(suggest_memory_format, (*images, weight)):
            return
        for image in images:
            if is_image(image) and not image.is_contiguous(memory_format=LAST):
                self.calls.append(Call("copy for conv", 1, 2 * size(image), 0, "", dtype))
                if suggest_memory_format(image) != LAST:  # else a part of an image that has it
                    self.turned[f"{name} at {self.where()}"] += 1

    def _wait(self, what, kwargs=None, args=()) -> None:
        blocking = not ((kwargs or {}).get("non_blocking") or True in args[2:3])
        if blocking:
            self.waits[f"{what} at {self.where()}"] += 1

    @staticmethod
    def where() -> str:
        """The lines of flatdiff that led here, the innermost first. A backward pass has none."""
        frames = [f for f in traceback.extract_stack() if "/flatdiff/" in f.filename]
        names = (f"{Path(f.filename).name}:{f.lineno}" for f in frames[:-4:-1])
        return " < ".join(names) or "no line of flatdiff"


@functools.cache
def composite(func) -> bool:
    """Whether CUDA has no kernel of it, but others that it is made of."""
    if func.namespace != "aten":
        return False
    has = functools.partial(torch._C._dispatch_has_kernel_for_dispatch_key, func.name())
    whole = "CPU", "CUDA", "CompositeExplicitAutograd"
    return has("CompositeImplicitAutograd") and not any(map(has, whole))


def mutated(func, args) -> list[Tensor]:
    """The tensors that are written into; AdamW's gradients are only said to be."""
    kept = zip(func._schema.arguments, args)
    written = (a for s, a in kept if s.alias_info and s.alias_info.is_write and s.name != "grads")
    return [x for x in tree_leaves(list(written)) if isinstance(x, Tensor)]


def half_of(x: Tensor) -> int:
    return max(1, x.numel() // 2)


def is_image(x) -> bool:
    return isinstance(x, Tensor) and x.ndim == 4 and x.shape[1] > 1 and x.shape[2:].numel() > 1


def is_cuda(device) -> bool:
    return torch.device(device).type == "cuda"


def size(x: Tensor) -> int:
    return x.numel() * x.element_size()


def kind_of(name: str) -> str:
    return "conv" if "conv" in name else "attention" if "attention" in name else "matmul"

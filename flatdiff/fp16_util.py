"""guided-diffusion's training with a half-precision network, for code that imports it.

The optimizer has fp32 masters of the weights, flattened into two tensors: all vectors, and all
else as [1, m]. flatdiff's own TrainLoop keeps its weights in fp32 and needs none of this.
"""

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from .nets.layers import CONVOLUTIONS
from .train.loss_scale import LossScale
from .world import logger

INITIAL_LOG_LOSS_SCALE = 20.0

Named = list[tuple[str, Tensor]]
Groups = Sequence[tuple[Named, int | tuple[int, int]]]  # parameters, and their master's shape


def convert_module_to_f16(l: nn.Module) -> None:  # noqa: E741 - guided-diffusion's name
    """Gives half precision to a convolution's own weights, no other module. For `Module.apply`."""
    if isinstance(l, CONVOLUTIONS):
        l.half()


def convert_module_to_f32(l: nn.Module) -> None:  # noqa: E741
    """Undoes convert_module_to_f16, but for what it rounded."""
    if isinstance(l, CONVOLUTIONS):
        l.float()


def get_param_groups_and_shapes(named_model_params: Iterable[tuple[str, Tensor]]) -> Groups:
    """The vectors (and scalars), whose master is a vector, and all else, whose master is [1, m]."""
    named = list(named_model_params)
    return [
        ([(name, p) for name, p in named if p.ndim <= 1], -1),
        ([(name, p) for name, p in named if p.ndim > 1], (1, -1)),
    ]


def make_master_params(param_groups_and_shapes: Groups) -> list[nn.Parameter]:
    """A fp32 copy of each group, as one parameter."""
    return [
        nn.Parameter(_flat(p.detach() for _, p in group).view(shape))
        for group, shape in param_groups_and_shapes
    ]


def unflatten_master_params(param_group: Named, master_param: Tensor) -> list[Tensor]:
    """Views of a master, one shaped as each parameter of its group."""
    pieces = master_param.reshape(-1).split([p.numel() for _, p in param_group])
    return [piece.view(p.shape) for piece, (_, p) in zip(pieces, param_group)]


def model_grads_to_master_grads(
    param_groups_and_shapes: Groups, master_params: Iterable[Tensor]
) -> None:
    """Gives each master the gradients of its group in fp32; zeros where there is none."""
    for master, (group, shape) in zip(master_params, param_groups_and_shapes, strict=True):
        master.grad = _flat(param_grad_or_zeros(p) for _, p in group).view(shape)


@torch.no_grad()
def master_params_to_model_params(
    param_groups_and_shapes: Groups, master_params: Iterable[Tensor]
) -> None:
    """Gives the network its masters' values, rounded to its own dtypes."""
    for master, (group, _) in zip(master_params, param_groups_and_shapes, strict=True):
        for (_, p), value in zip(group, unflatten_master_params(group, master)):
            p.copy_(value)


def master_params_to_state_dict(
    model: nn.Module,
    param_groups_and_shapes: Groups | None,
    master_params: Iterable[Tensor],
    use_fp16: bool,
) -> dict[str, Tensor]:
    """The network's state_dict with the masters' values in it; without fp16 they are one each."""
    state_dict = model.state_dict()
    if not use_fp16:
        names = (name for name, _ in model.named_parameters())
        return state_dict | dict(zip(names, master_params, strict=True))
    for master, (group, _) in zip(master_params, param_groups_and_shapes, strict=True):
        names = (name for name, _ in group)
        state_dict |= dict(zip(names, unflatten_master_params(group, master)))
    return state_dict


def state_dict_to_master_params(
    model: nn.Module, state_dict: Mapping[str, Tensor], use_fp16: bool
) -> list[Tensor]:
    """What master_params_to_state_dict saved, as masters."""
    named = [(name, state_dict[name]) for name, _ in model.named_parameters()]
    if use_fp16:
        return make_master_params(get_param_groups_and_shapes(named))
    return [value for _, value in named]


def zero_master_grads(master_params: Iterable[Tensor]) -> None:
    for master in master_params:
        master.grad = None


def zero_grad(model_params: Iterable[Tensor]) -> None:
    """Sets gradients to zero in place: DistributedDataParallel may hold views of them."""
    for p in model_params:
        if p.grad is not None:
            p.grad.detach_().zero_()


def param_grad_or_zeros(param: Tensor) -> Tensor:
    return torch.zeros_like(param) if param.grad is None else param.grad.detach()


def check_overflow(value: float) -> bool:
    """Whether it is infinite or NaN."""
    return not math.isfinite(value)


def _flat(tensors: Iterable[Tensor]) -> Tensor:
    parts = [tensor.float().reshape(-1) for tensor in tensors]
    return torch.cat(parts) if parts else torch.empty(0)


class MixedPrecisionTrainer:
    """zero_grad, backward(loss) and optimize(opt) of a network; opt is one of `master_params`.

    Without use_fp16 the masters are the network's own parameters, and this is plain training.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        use_fp16: bool = False,
        fp16_scale_growth: float = 1e-3,
        initial_lg_loss_scale: float = INITIAL_LOG_LOSS_SCALE,
    ):
        self.model, self.use_fp16 = model, use_fp16
        self.model_params = self.master_params = list(model.parameters())
        self.param_groups_and_shapes = None
        self.scale = LossScale(fp16_scale_growth, initial_lg_loss_scale)
        if use_fp16:
            self.param_groups_and_shapes = get_param_groups_and_shapes(model.named_parameters())
            self.master_params = make_master_params(self.param_groups_and_shapes)
            model.convert_to_fp16()

    lg_loss_scale = property(  # log2 of what the loss is multiplied by, in fp16
        lambda self: self.scale.lg, lambda self, value: setattr(self.scale, "lg", value)
    )

    def zero_grad(self) -> None:
        zero_grad(self.model_params)

    def backward(self, loss: Tensor) -> None:
        (loss * self.scale.factor if self.use_fp16 else loss).backward()

    def optimize(self, opt: torch.optim.Optimizer) -> bool:
        """A step of `opt`, and the norms to the log; False, and nothing else, if fp16 overflowed.

        FloatingPointError where it overflows at every scale.
        """
        if not self.use_fp16:
            self._log_norms(_norm(p.grad for p in self.master_params if p.grad is not None))
            opt.step()
            return True
        logger.logkv_mean("lg_loss_scale", self.lg_loss_scale)
        factor = self.scale.factor
        model_grads_to_master_grads(self.param_groups_and_shapes, self.master_params)
        norm = _norm(p.grad for p in self.master_params) / factor
        taken = self.scale.update(not check_overflow(norm))
        if taken:
            self._log_norms(norm)
            for p in self.master_params:
                p.grad.div_(factor)
            opt.step()
            master_params_to_model_params(self.param_groups_and_shapes, self.master_params)
        zero_master_grads(self.master_params)
        return taken

    def _log_norms(self, grad_norm: Tensor) -> None:
        logger.logkv_mean("grad_norm", grad_norm)
        logger.logkv_mean("param_norm", _norm(self.master_params))

    def master_params_to_state_dict(self, master_params: Iterable[Tensor]) -> dict[str, Tensor]:
        return master_params_to_state_dict(
            self.model, self.param_groups_and_shapes, master_params, self.use_fp16
        )

    def state_dict_to_master_params(self, state_dict: Mapping[str, Tensor]) -> list[Tensor]:
        return state_dict_to_master_params(self.model, state_dict, self.use_fp16)


@torch.no_grad()
def _norm(tensors: Iterable[Tensor]) -> Tensor:
    """The length of all of them together."""
    tensors = [tensor.float() for tensor in tensors]
    return torch.stack(torch._foreach_norm(tensors)).norm() if tensors else torch.zeros(())

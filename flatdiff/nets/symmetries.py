"""What can be done to a network's weights and leaves what it computes, and units that it leaves.

A `Linear` maps the weights of a network to others: some of them are multiplied by small matrices,
or change places. One that preserves the function is a symmetry; `SYMMETRIES` names those of
residual blocks and attention. `balanced` maps noise to moves that none of them changes.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from . import blocks, vit


@dataclasses.dataclass(frozen=True, eq=False)
class Part:
    """Along a dimension of a weight, entries `to[b]` become `matrix[b]` times entries `of[b]`."""

    weight: Tensor
    dim: int
    to: Tensor  # [B, n], the same entries as those of `of`
    of: Tensor  # [B, n]
    matrix: Tensor  # [B, n, n]

    @property
    def transposed(self) -> "Part":
        return dataclasses.replace(self, to=self.of, of=self.to, matrix=self.matrix.mT)

    def apply_(self, values: Tensor) -> None:
        """Map values, shaped as the weight, in place."""
        rows = values.movedim(self.dim, 0)
        of = rows[self.of].reshape(*self.of.shape, -1)  # [B, n, rest]
        rows[self.to] = (self.matrix @ of).view(*self.to.shape, *rows.shape[1:])


@dataclasses.dataclass(frozen=True, eq=False)
class Linear:
    """A linear map of weights, part after part; `eps`: group norms, and factors of their eps."""

    parts: list[Part]
    eps: dict[nn.GroupNorm, float] = dataclasses.field(default_factory=dict)

    @property
    def transposed(self) -> "Linear":
        return Linear([part.transposed for part in reversed(self.parts)])

    @torch.no_grad()
    def apply_(self, values: Sequence[Tensor], weights: Sequence[Tensor]) -> None:
        """Map values, one shaped as each of the weights, in place; parts of others are left out."""
        of = dict(zip(map(id, weights), values, strict=True))
        for part in self.parts:
            if id(part.weight) in of:
                part.apply_(of[id(part.weight)])


def mixed(weight: Tensor, dim: int, rows: Tensor, matrix: Tensor) -> Part:
    """Return the part that multiplies entries `rows` [B, n] of a dimension by matrices [B, n, n],
    from anywhere, of any kind."""
    rows = rows.to(weight.device)
    return Part(weight, dim, rows, rows, matrix.to(weight.detach()))


def scaled(weight: Tensor, dim: int, factors: Tensor, rows: Tensor | None = None) -> Part:
    """Return the part that multiplies entries `rows` [n], or all, of a dimension by factors [n]."""
    rows = torch.arange(weight.shape[dim]) if rows is None else rows
    return mixed(weight, dim, rows[:, None], factors[:, None, None])


def permuted(weight: Tensor, dim: int, to: Tensor, of: Tensor) -> Part:
    """Return the part that puts entries `of` [n] of a dimension where entries `to` [n] are."""
    to, of = (rows[:, None].to(weight.device) for rows in (to, of))
    return Part(weight, dim, to, of, weight.detach().new_ones(len(to), 1, 1))


@dataclasses.dataclass(frozen=True, eq=False)
class Heads:
    """An attention's weights, and by head the rows [heads, ch] of q, k, v and columns of proj."""

    qkv: nn.Module
    proj: nn.Module
    q: Tensor
    k: Tensor
    v: Tensor
    out: Tensor

    def pairs(self) -> Iterator[tuple[list[tuple[Tensor, int, Tensor]], Tensor, Tensor]]:
        """Give q with k, and proj with v: of either (weights, dimension, rows), and the values
        [heads, others, ch] of both, whose products X Y^T are all that the network sees."""
        weight = self.qkv.weight.detach().flatten(1).double().cpu()
        proj = self.proj.weight.detach().flatten(1).double().cpu()
        mine = self.qkv.weight, self.qkv.bias
        of_q, of_k, of_v = ([(w, 0, rows) for w in mine] for rows in (self.q, self.k, self.v))
        yield (of_q, of_k), weight[self.q].mT, weight[self.k].mT
        of_out = [(self.proj.weight, 1, self.out)]
        yield (of_out, of_v), proj.T[self.out].mT, weight[self.v].mT


def attentions(network: nn.Module) -> list[Heads]:
    """Find the attention of a network of ours."""
    found = []
    for block in network.modules():
        if not isinstance(block, blocks.AttentionBlock | vit.Block):
            continue
        new = isinstance(block, vit.Block) or block.attention.new_order
        channels, heads = block.proj_out.weight.shape[0], block.num_heads
        rows = torch.arange(3 * channels)
        shaped = rows.view(3, heads, -1) if new else rows.view(heads, 3, -1).transpose(0, 1)
        out = torch.arange(channels).view(heads, -1)
        found.append(Heads(block.qkv, block.proj_out, *shaped, out))
    return found


@dataclasses.dataclass(frozen=True, eq=False)
class Hidden:
    """Channels that a layer makes for one other: by dimension, weights that make them, scale with
    them, or take them. norm: the group norm that they go into at once, or None."""

    makes: list[Tensor]  # rows; scaled where the norm undoes it
    follows: list[Tensor]  # rows, or twice as many
    takes: Tensor  # columns
    norm: nn.GroupNorm | None

    @property
    def groups(self) -> int:
        return self.norm.num_groups if self.norm else 1

    def moved(self, order: Tensor) -> list[Part]:
        """Return the parts that put channels `order` [C] first, second, ..."""
        parts = []
        for weight in [*self.makes, *self.follows]:
            for start in range(0, len(weight), len(order)):
                to = torch.arange(start, start + len(order))
                parts.append(permuted(weight, 0, to, start + order))
        return [*parts, permuted(self.takes, 1, torch.arange(len(order)), order)]

    def order(self) -> Tensor:
        """Sort the channels, [C], by how much is taken of them: groups, and in each its own."""
        sums = self.takes.detach().double().cpu().transpose(0, 1).flatten(1).square().sum(1)
        grouped = sums.view(self.groups, -1)
        within = grouped.argsort(dim=1, descending=True, stable=True)
        firsts = torch.arange(len(sums)).view(self.groups, -1).gather(1, within)
        return firsts[grouped.sum(1).argsort(descending=True, stable=True)].flatten()


def hidden(network: nn.Module) -> list[Hidden]:
    """Find the hidden channels of a network of ours."""
    found = []
    for block in network.modules():
        if isinstance(block, blocks.ResBlock):
            conv, told, (norm, *_, last) = (
                block.in_layers[-1],
                block.emb_layers[-1],
                block.out_layers,
            )
            makes, follows = [conv.weight, conv.bias], [norm.weight, norm.bias]
            (follows if block.use_scale_shift_norm else makes).extend([told.weight, told.bias])
            found.append(Hidden(makes, follows, last.weight, norm))
        if isinstance(block, vit.Block):
            first, *_, last = block.mlp
            found.append(Hidden([first.weight, first.bias], [], last.weight, None))
    return found


def _into_norm(network: nn.Module, factor: float) -> Linear:
    """Divide by the factor what goes into a group norm, which divides by its deviation."""
    normed = [h for h in hidden(network) if h.norm]
    parts = [
        scaled(weight, 0, torch.full([len(weight)], 1 / factor))
        for h in normed
        for weight in h.makes
    ]
    return Linear(parts, {h.norm: factor**-2 for h in normed})


def _against(which: int, network: nn.Module, factor: float) -> Linear:
    """Multiply one of a pair by factor and 1 / factor, channel by channel, and divide the other."""
    parts = []
    for heads in attentions(network):
        pair = list(heads.pairs())[which][0]
        for weights, power in zip(pair, (1, -1)):
            for weight, dim, rows in weights:
                signs = 1 - 2 * (torch.arange(rows.numel()) % 2)
                parts.append(
                    scaled(weight, dim, factor ** (power * signs.double()), rows.flatten())
                )
    return Linear(parts)


def _turned(network: nn.Module, factor: float) -> Linear:
    """Turn the channels of each head, of q and k alike, and of value and projection."""
    generator, parts = torch.Generator().manual_seed(0), []
    for heads in attentions(network):
        for pair, x, _ in heads.pairs():
            noise = torch.randn(len(x), *[x.shape[2]] * 2, generator=generator)
            turn = torch.linalg.qr(noise.double())[0]
            for weight, dim, rows in [*pair[0], *pair[1]]:
                parts.append(mixed(weight, dim, rows, turn))
    return Linear(parts)


def _reversed(network: nn.Module, factor: float) -> Linear:
    """Put the hidden channels into the opposite order."""
    every = hidden(network)
    return Linear([p for h in every for p in h.moved(torch.arange(h.takes.shape[1]).flip(0))])


SYMMETRIES: dict[str, Callable[[nn.Module, float], Linear]] = {
    "conv into norm": _into_norm,
    "q against k": lambda network, factor: _against(0, network, factor),
    "value against proj": lambda network, factor: _against(1, network, factor),
    "turned heads": _turned,
    "permuted channels": _reversed,
}


def of_network(network: nn.Module, factor: float = 10.0) -> dict[str, Linear]:
    """Return the symmetries that a network has, by name; ValueError where none is known."""
    _known(network)
    every = {name: make(network, factor) for name, make in SYMMETRIES.items()}
    return {name: linear for name, linear in every.items() if linear.parts}


def _known(network: nn.Module) -> None:
    if not (hidden(network) or attentions(network)):
        raise ValueError(
            f"{type(network).__name__} has no residual block with a group norm and no attention of "
            "flatdiff.nets, whose symmetries are known: expected a UNetModel or a ViT"
        )


def balanced(network: nn.Module) -> Linear:
    """Map noise to moves of the weights, in units that follow the symmetries of the network.

    It is the linear map from a canonical form back to the weights as they are: filters before a
    group norm of length 1, on average over a group; q and k, and value and projection, of each head
    by the singular value decomposition of their product, of which each has the root of the singular
    values; hidden channels by how much is taken of them. Noise that is the same in the canonical
    form moves the output alike, however the network was transformed. The metrics on the
    quotient by these symmetries are those of geodesic sharpness (da Silva et al. 2025) in spirit;
    moves here are straight. What is in no symmetry keeps its noise. ValueError as `of_network`.
    """
    _known(network)
    parts = []
    for h in hidden(network):
        order = h.order()
        parts += h.moved(order.argsort())
        if h.norm:
            squares = h.makes[0].detach().double().cpu().flatten(1).square().sum(1)
            lengths = (
                squares.view(h.groups, -1)
                .mean(1)
                .sqrt()
                .repeat_interleave(len(squares) // h.groups)
            )
            parts += [scaled(weight, 0, lengths) for weight in h.makes]
    for heads in attentions(network):
        for pair, x, y in heads.pairs():
            for weights, matrix in zip(pair, _factors(x, y)):
                parts += [mixed(weight, dim, rows, matrix) for weight, dim, rows in weights]
    return Linear(parts)


def _factors(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return a, b [B, n, n] of X = A a^T and Y = B b^T [B, N, n], where A B^T = X Y^T and A and B
    have orthogonal columns of the same lengths, the longest first."""
    (q, r), (_, s) = torch.linalg.qr(x), torch.linalg.qr(y)
    u, values, v = torch.linalg.svd(r @ s.mT)
    least = torch.finfo(values.dtype).eps * values[:, :1]
    roots = torch.where(values > least, values, least).sqrt()
    roots = torch.where(roots > 0, roots, 1.0)[:, None]  # of zeros: as it is
    main = (q @ u).gather(1, (q @ u).abs().argmax(dim=1, keepdim=True))
    signs = torch.where(main < 0, -1.0, 1.0).to(x)
    return (r.mT @ u) / roots * signs, (s.mT @ v.mT) / roots * signs

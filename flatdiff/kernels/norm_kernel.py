"""Group norm, FiLM and SiLU of channels_last images in Triton: norm_kernel.cpp's formulas, on CUDA.

    x^ = (x - mean) / std,   z = x^ slope + offset,   y = z sigmoid(z)
    slope = weight (1 + scale),   offset = bias (1 + scale) + shift

x, y: [images, pixels, channels]; film: [images, 2, channels], scale and shift, or None: any may be
half, all else is fp32. A program has a part of an image: some pixels, some whole groups; it sees
them in tiles [ROWS, AT_ONCE, PADDED] of pixels, groups, and channels of a group.
"""

import triton
import triton.language as tl


@triton.jit
def _place(pixels, GROUPS, WIDTH, PARTS, AT_ONCE, PADDED):
    """This program's (image, part, first pixel, end, groups, channels, whether there are such)."""
    program = tl.program_id(0)
    part = program % PARTS
    blocks: tl.constexpr = (GROUPS + AT_ONCE - 1) // AT_ONCE
    group = program // PARTS % blocks * AT_ONCE + tl.arange(0, AT_ONCE)
    image = (program // (PARTS * blocks)).to(tl.int64)
    lane = tl.arange(0, PADDED)
    channel = group[:, None] * WIDTH + lane[None, :]
    real = (group < GROUPS)[:, None] & (lane < WIDTH)[None, :]
    size = tl.cdiv(pixels, PARTS)
    return image, part, part * size, tl.minimum(part * size + size, pixels), group, channel, real


@triton.jit
def _tile(start, end, channel, real, CHANNELS, ROWS):
    """(where a tile lies in its image, which of it is there)."""
    pixel = start + tl.arange(0, ROWS)
    there = (pixel < end)[:, None, None] & real[None, :, :]
    return pixel[:, None, None] * CHANNELS + channel[None, :, :], there


@triton.jit
def _affine(image, channel, real, weight, bias, film, CHANNELS, FILM):
    """(weight, bias, 1 + scale, shift) of each channel."""
    w = tl.load(weight + channel, real, other=0.0)
    b = tl.load(bias + channel, real, other=0.0)
    scale, shift = tl.full(w.shape, 1.0, tl.float32), tl.zeros(w.shape, tl.float32)
    if FILM:
        film += image * (2 * CHANNELS)
        scale += tl.load(film + channel, real, other=0.0).to(tl.float32)
        shift += tl.load(film + CHANNELS + channel, real, other=0.0).to(tl.float32)
    return w, b, scale, shift


@triton.jit
def moments_kernel(x, of_parts, pixels, GROUPS: tl.constexpr, WIDTH: tl.constexpr,
                   PARTS: tl.constexpr, AT_ONCE: tl.constexpr, PADDED: tl.constexpr,
                   ROWS: tl.constexpr):  # fmt: skip
    """of_parts [N, 2, GROUPS, PARTS]: means; sums of squares about them.

    x is taken less the mean of the first tile, so that a large mean costs no digits.
    """
    image, part, first, end, group, channel, real = _place(
        pixels, GROUPS, WIDTH, PARTS, AT_ONCE, PADDED
    )
    x += image * pixels * (GROUPS * WIDTH)
    at, there = _tile(first, end, channel, real, GROUPS * WIDTH, ROWS)
    v = tl.load(x + at, there, other=0.0).to(tl.float32)
    base = tl.sum(tl.sum(v, 2), 0) / (tl.minimum(end - first, ROWS) * WIDTH)
    total = tl.zeros([ROWS, AT_ONCE, PADDED], tl.float32)
    square = tl.zeros([ROWS, AT_ONCE, PADDED], tl.float32)
    for start in range(first, end, ROWS):
        at, there = _tile(start, end, channel, real, GROUPS * WIDTH, ROWS)
        v = tl.load(x + at, there, other=0.0).to(tl.float32)
        v = tl.where(there, v - base[None, :, None], 0.0)
        total += v
        square += v * v
    total, square = tl.sum(tl.sum(total, 2), 0), tl.sum(tl.sum(square, 2), 0)
    mean = total / ((end - first) * WIDTH)
    at = of_parts + (image * 2 * GROUPS + group) * PARTS + part
    tl.store(at, base + mean, group < GROUPS)
    tl.store(at + GROUPS * PARTS, square - total * mean, group < GROUPS)


@triton.jit
def _merged(of_parts, image, group, pixels, eps, GROUPS, WIDTH, PARTS):
    """(means, reciprocal deviations) of groups, from those of their parts (Chan et al. 1983)."""
    part, real = tl.arange(0, PARTS), group < GROUPS
    of_parts += (image * 2 * GROUPS + group) * PARTS
    at = of_parts[:, None] + part[None, :]
    means = tl.load(at, real[:, None], other=0.0)
    squares = tl.load(at + GROUPS * PARTS, real[:, None], other=0.0)
    base = tl.load(of_parts, real, other=0.0)
    size = tl.cdiv(pixels, PARTS)
    count = tl.minimum(pixels - part * size, size).to(tl.float32)[None, :]
    rest = means - base[:, None]
    mean = tl.sum(count * rest, 1) / pixels
    rest -= mean[:, None]
    variance = tl.sum(squares / WIDTH + count * rest * rest, 1) / pixels
    return base + mean, tl.div_rn(1.0, tl.sqrt_rn(variance + eps))


@triton.jit
def norm_kernel(x, y, of_parts, moments, images, pixels, eps, weight, bias, film,
                FILM: tl.constexpr, SILU: tl.constexpr, GROUPS: tl.constexpr,
                WIDTH: tl.constexpr, PARTS: tl.constexpr, AT_ONCE: tl.constexpr,
                PADDED: tl.constexpr, ROWS: tl.constexpr):  # fmt: skip
    """y, and moments [2, N, GROUPS]."""
    image, part, first, end, group, channel, real = _place(
        pixels, GROUPS, WIDTH, PARTS, AT_ONCE, PADDED
    )
    mean, rstd = _merged(of_parts, image, group, pixels, eps, GROUPS, WIDTH, PARTS)
    if part == 0:
        tl.store(moments + image * GROUPS + group, mean, group < GROUPS)
        tl.store(moments + (images + image) * GROUPS + group, rstd, group < GROUPS)
    w, b, scale, shift = _affine(image, channel, real, weight, bias, film, GROUPS * WIDTH, FILM)
    slope, offset = w * scale, b * scale + shift
    x += image * pixels * (GROUPS * WIDTH)
    y += image * pixels * (GROUPS * WIDTH)
    for start in range(first, end, ROWS):
        at, there = _tile(start, end, channel, real, GROUPS * WIDTH, ROWS)
        v = tl.load(x + at, there, other=0.0).to(tl.float32)
        v = (v - mean[None, :, None]) * rstd[None, :, None]
        z = v * slope[None, :, :] + offset[None, :, :]
        if SILU:
            z *= tl.sigmoid(z)
        tl.store(y + at, z.to(y.dtype.element_ty), there)


@triton.jit
def _slope(dy, x, at, there, mean, rstd, slope, offset, SILU):
    """(dL/dz, x^) of a tile."""
    d = tl.load(dy + at, there, other=0.0).to(tl.float32)
    v = tl.load(x + at, there, other=0.0).to(tl.float32)
    v = (v - mean[None, :, None]) * rstd[None, :, None]
    if SILU:
        z = v * slope[None, :, :] + offset[None, :, :]
        g = tl.sigmoid(z)
        d *= g * (1.0 + z * (1.0 - g))
    return tl.where(there, d, 0.0), v


@triton.jit
def sums_kernel(of_parts, dy, x, moments, images, pixels, weight, bias, film,
                FILM: tl.constexpr, SILU: tl.constexpr, GROUPS: tl.constexpr,
                WIDTH: tl.constexpr, PARTS: tl.constexpr, AT_ONCE: tl.constexpr,
                PADDED: tl.constexpr, ROWS: tl.constexpr):  # fmt: skip
    """of_parts [N, 2, PARTS, C]: each channel's sums of dL/dz, and of dL/dz x^."""
    image, part, first, end, group, channel, real = _place(
        pixels, GROUPS, WIDTH, PARTS, AT_ONCE, PADDED
    )
    mean = tl.load(moments + image * GROUPS + group, group < GROUPS, other=0.0)
    rstd = tl.load(moments + (images + image) * GROUPS + group, group < GROUPS, other=0.0)
    w, b, scale, shift = _affine(image, channel, real, weight, bias, film, GROUPS * WIDTH, FILM)
    dy += image * pixels * (GROUPS * WIDTH)
    x += image * pixels * (GROUPS * WIDTH)
    total = tl.zeros([ROWS, AT_ONCE, PADDED], tl.float32)
    dot = tl.zeros([ROWS, AT_ONCE, PADDED], tl.float32)
    for start in range(first, end, ROWS):
        at, there = _tile(start, end, channel, real, GROUPS * WIDTH, ROWS)
        d, v = _slope(dy, x, at, there, mean, rstd, w * scale, b * scale + shift, SILU)
        total += d
        dot += d * v
    at = of_parts + (image * 2 * PARTS + part) * (GROUPS * WIDTH) + channel
    tl.store(at, tl.sum(total, 0), real)
    tl.store(at + PARTS * GROUPS * WIDTH, tl.sum(dot, 0), real)


@triton.jit
def _all_parts(of_parts, image, channel, real, CHANNELS, PARTS):
    """What `sums_kernel` found, of all parts of the image."""
    at, there = _tile(0, PARTS, channel, real, CHANNELS, PARTS)
    of_parts += image * (2 * PARTS * CHANNELS)
    total = tl.sum(tl.load(of_parts + at, there, other=0.0), 0)
    return total, tl.sum(tl.load(of_parts + PARTS * CHANNELS + at, there, other=0.0), 0)


@triton.jit
def gradient_kernel(dx, of_images, dfilm, of_parts, dy, x, moments, images, pixels, weight,
                    bias, film, FILM: tl.constexpr, SILU: tl.constexpr, GROUPS: tl.constexpr,
                    WIDTH: tl.constexpr, PARTS: tl.constexpr, AT_ONCE: tl.constexpr,
                    PADDED: tl.constexpr, ROWS: tl.constexpr):  # fmt: skip
    """dx = rstd (dx^ - <dx^> - x^ <dx^ x^>), the means over the group; dx^ = weight scale dL/dz.

    of_images [2, N, C]: each image's part of the gradients of weight and bias; dfilm: as film.
    """
    image, part, first, end, group, channel, real = _place(
        pixels, GROUPS, WIDTH, PARTS, AT_ONCE, PADDED
    )
    mean = tl.load(moments + image * GROUPS + group, group < GROUPS, other=0.0)
    rstd = tl.load(moments + (images + image) * GROUPS + group, group < GROUPS, other=0.0)
    w, b, scale, shift = _affine(image, channel, real, weight, bias, film, GROUPS * WIDTH, FILM)
    slope = w * scale

    total, dot = _all_parts(of_parts, image, channel, real, GROUPS * WIDTH, PARTS)
    if part == 0:
        of_images += image * (GROUPS * WIDTH)
        tl.store(of_images + channel, scale * dot, real)
        tl.store(of_images + images * (GROUPS * WIDTH) + channel, scale * total, real)
        if FILM:
            dfilm += image * (2 * GROUPS * WIDTH)
            of_scale = w * dot + b * total
            tl.store(dfilm + channel, of_scale.to(dfilm.dtype.element_ty), real)
            tl.store(dfilm + GROUPS * WIDTH + channel, total.to(dfilm.dtype.element_ty), real)
    of_one = tl.sum(slope * total, 1) / (pixels * WIDTH)
    of_x = tl.sum(slope * dot, 1) / (pixels * WIDTH)

    dx += image * pixels * (GROUPS * WIDTH)
    dy += image * pixels * (GROUPS * WIDTH)
    x += image * pixels * (GROUPS * WIDTH)
    for start in range(first, end, ROWS):
        at, there = _tile(start, end, channel, real, GROUPS * WIDTH, ROWS)
        d, v = _slope(dy, x, at, there, mean, rstd, slope, b * scale + shift, SILU)
        d = slope[None, :, :] * d - of_one[None, :, None] - v * of_x[None, :, None]
        tl.store(dx + at, (d * rstd[None, :, None]).to(dx.dtype.element_ty), there)

"""Image size and flag text -> the widths of a network's levels, and where attention stands."""

import math

CHANNEL_MULT = {
    512: (0.5, 1, 1, 2, 2, 4, 4),
    256: (1, 1, 2, 2, 4, 4),
    128: (1, 1, 2, 3, 4),
    64: (1, 2, 3, 4),
    32: (1, 2, 2, 2),
    28: (1, 2, 2),
    16: (1, 2, 2),
    8: (1, 2),
}
SR_CHANNEL_MULT = CHANNEL_MULT | {512: (1, 1, 2, 2, 4, 4)}


def attention_strides(image_size, attention_resolutions):
    """Feature-map sizes "16,8" -> the strides at which attention stands, as guided-diffusion."""
    return tuple(image_size // size for size in _sizes(attention_resolutions))


def unmet_attention(image_size, attention_resolutions, num_levels):
    """A sentence for each of the feature-map sizes that no level of the network has."""
    levels = {2**level: image_size // 2**level for level in range(num_levels)}
    found = {size: levels.get(image_size // size) for size in _sizes(attention_resolutions)}
    return [
        f"attention_resolutions: no feature map of this network is of size {size} (they are "
        f"{', '.join(map(str, levels.values()))}); "
        + (f"attention stands at {level} instead" if level else f"so {size} has no effect")
        for size, level in found.items()
        if level != size
    ]


def _sizes(attention_resolutions):
    try:
        sizes = [int(s) for s in attention_resolutions.split(",") if s]
    except ValueError:
        sizes = [0]
    if any(size < 1 for size in sizes):
        raise ValueError(
            f"attention_resolutions is {attention_resolutions!r}; expected feature-map sizes "
            "separated by commas, as 16,8, or nothing"
        )
    return sizes


def channel_multipliers(image_size, channel_mult, table=CHANNEL_MULT):
    """The width factor of each level."""
    try:
        given = tuple(float(m) for m in channel_mult.split(",") if m)
    except ValueError:
        given = (math.nan,)
    if not all(0 < m <= 1000 for m in given):
        raise ValueError(
            f"channel_mult is {channel_mult!r}; expected numbers above 0 and up to 1000, as 1,2,2,2"
        )
    if not given and image_size not in table:
        raise ValueError(
            f"image_size {image_size} has no default channel_mult (sizes with one: "
            f"{', '.join(map(str, sorted(table)))}); give --channel_mult, as 1,2,2,2"
        )
    given = given or table[image_size]
    return tuple(int(m) if m == int(m) else m for m in given)

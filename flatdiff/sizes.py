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
    try:
        sizes = [int(s) for s in attention_resolutions.split(",") if s]
        return tuple(image_size // size for size in sizes)
    except (ValueError, ZeroDivisionError):
        raise ValueError(
            f"attention_resolutions is {attention_resolutions!r}; expected feature-map sizes "
            "separated by commas, as 16,8, or nothing"
        ) from None


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

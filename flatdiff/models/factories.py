"""guided-diffusion's factories: flags, each a named argument -> networks and chains.

Order and defaults of the arguments are guided-diffusion's, since code written for it looks them
up; ours come after a star. The `..._defaults` that go with them are in `script_util`.
"""

import dataclasses
import functools
import inspect

import numpy as np

from ..chain import gaussian_diffusion as gd
from ..chain.respace import SpacedDiffusion, space_timesteps
from ..flags.choices import NETWORKS, OBJECTIVES, bound, chosen, entry
from ..flags.config import DiffusionFlags, ModelFlags
from ..nets import sizes
from ..nets.classifier import EncoderUNetModel
from ..nets.unet import SuperResModel, UNetModel
from ..world import logger

NUM_CLASSES = 1000
LABELS = {"num_classes": NUM_CLASSES, "class_dropout": 0.0}
CHAIN = (
    "diffusion_steps noise_schedule timestep_respacing use_kl predict_xstart rescale_timesteps "
    "rescale_learned_sigmas"
)
OURS = {  # of the chain, beside guided-diffusion's
    field.name: field.default
    for field in dataclasses.fields(DiffusionFlags)
    if field.name not in {*CHAIN.split(), "learn_sigma"}
}
HEADS = "num_heads num_head_channels num_heads_upsample"
MEANS = {
    "eps": gd.ModelMeanType.EPSILON,
    "x": gd.ModelMeanType.START_X,
    "v": gd.ModelMeanType.VELOCITY,
}
HOW = "use_checkpoint use_scale_shift_norm resblock_updown use_fp16"
NETWORK = {name: getattr(ModelFlags, name) for name in ("network", "patch_size", "num_layers")}
EVERYWHERE = {"network", "num_channels", "class_cond", "class_dropout", "use_fp16"}  # somehow


def called_with(names, **ours):
    """A decorator: the function of a dict `flags` is called with guided-diffusion's arguments.

    names: those, in their order, none of which has a default; ours: keywords, with defaults.
    """
    kinds = inspect.Parameter
    theirs = [kinds(name, kinds.POSITIONAL_OR_KEYWORD) for name in names.split()]
    added = [kinds(name, kinds.KEYWORD_ONLY, default=value) for name, value in ours.items()]
    signature = inspect.Signature([*theirs, *added])

    def decorate(function):
        @functools.wraps(function)
        def factory(*args, **kwargs):
            if unknown := kwargs.keys() - signature.parameters:
                raise TypeError(f"{function.__name__} has no arguments {', '.join(unknown)}")
            return function(ours | signature.bind(*args, **kwargs).arguments)

        factory.__signature__ = signature
        return factory

    return decorate


@called_with(
    "image_size class_cond learn_sigma num_channels num_res_blocks channel_mult "
    f"{HEADS} attention_resolutions dropout {CHAIN} {HOW} use_new_attention_order",
    **LABELS,
    **OURS,
    **NETWORK,
)
def create_model_and_diffusion(flags):
    """(network, chain) of the flags of `model_and_diffusion_defaults`."""
    return _made(create_model, flags), create_chain(flags)


def create_model(
    image_size,
    num_channels,
    num_res_blocks,
    channel_mult="",
    learn_sigma=False,
    class_cond=False,
    use_checkpoint=False,
    attention_resolutions="16",
    num_heads=1,
    num_head_channels=-1,
    num_heads_upsample=-1,
    use_scale_shift_norm=False,
    dropout=0,
    resblock_updown=False,
    use_fp16=False,
    use_new_attention_order=False,
    *,
    num_classes=NUM_CLASSES,
    class_dropout=0.0,
    network="unet",
    patch_size=4,
    num_layers=12,
):
    """The network of RGB images that NETWORKS calls so, or one of a class of U-Nets."""
    flags = locals()
    kind, knobs = network, {}
    if isinstance(network, str):
        kind, knobs = chosen(NETWORKS, network, given={*flags, "dims", "null_label"})
    named = _for(UNetModel if issubclass(kind, UNetModel) else kind, flags)
    return kind(**named | _told(kind, flags) | knobs)


def _told(kind, flags):
    """Arguments of a kind of network that no flag has the name of, or that flags are texts of."""
    dropout, labelled = flags["class_dropout"], flags["class_cond"]
    if not 0 <= dropout <= 1 or (dropout and not labelled):
        raise ValueError(
            f"class_dropout is {dropout}, with class_cond {labelled}; expected a share of "
            "the labels, 0 to 1, above 0 only with class_cond True"
        )
    told = {
        "in_channels": 3,
        "model_channels": flags["num_channels"],
        "out_channels": 6 if flags["learn_sigma"] else 3,
        "num_classes": flags["num_classes"] if labelled else None,
        "null_label": dropout > 0,
    }
    if not issubclass(kind, UNetModel):
        if dropout and "null_label" not in inspect.signature(kind).parameters:
            raise ValueError(
                f"class_dropout is {dropout}, and {kind.__name__} has no null_label: leave it at "
                "0, or give the network that argument"
            )
        return _for(kind, told)
    size = flags["image_size"]
    table = sizes.SR_CHANNEL_MULT if kind is SuperResModel else sizes.CHANNEL_MULT
    mult = sizes.channel_multipliers(size, flags["channel_mult"], table)
    strides = _strides(size, flags["attention_resolutions"], mult)
    return told | {"attention_resolutions": strides, "channel_mult": mult}


def idle(network, names):
    """Those of the names of ModelFlags that have no effect on a network of NETWORKS."""
    used = inspect.signature(entry(NETWORKS, network).load()).parameters
    return [name for name in names if name not in used and name not in EVERYWHERE]


@called_with(
    "large_size small_size class_cond learn_sigma num_channels num_res_blocks "
    f"{HEADS} attention_resolutions dropout {CHAIN} {HOW}",
    **LABELS,
)
def sr_create_model_and_diffusion(flags):
    """(super-resolution network, chain) of the flags of `sr_model_and_diffusion_defaults`."""
    return _made(sr_create_model, flags), create_chain(flags)


@called_with(
    "large_size small_size num_channels num_res_blocks learn_sigma class_cond use_checkpoint "
    f"attention_resolutions {HEADS} use_scale_shift_norm dropout resblock_updown use_fp16",
    **LABELS,
)
def sr_create_model(flags):
    """`small_size` is not part of the network: it takes any low_res."""
    return create_model(flags["large_size"], network=SuperResModel, **_for(create_model, flags))


@called_with(
    "image_size classifier_use_fp16 classifier_width classifier_depth "
    "classifier_attention_resolutions classifier_use_scale_shift_norm "
    f"classifier_resblock_updown classifier_pool learn_sigma {CHAIN}",
    num_classes=NUM_CLASSES,
)
def create_classifier_and_diffusion(flags):
    """(noisy classifier, chain) of the flags of `classifier_and_diffusion_defaults`."""
    return _made(create_classifier, flags), create_chain(flags)


def create_classifier(
    image_size,
    classifier_use_fp16,
    classifier_width,
    classifier_depth,
    classifier_attention_resolutions,
    classifier_use_scale_shift_norm,
    classifier_resblock_updown,
    classifier_pool,
    num_classes=NUM_CLASSES,
):
    """The noisy classifier of RGB images."""
    flags = {name.removeprefix("classifier_"): value for name, value in locals().items()}
    mult = sizes.channel_multipliers(image_size, "")
    strides = _strides(image_size, classifier_attention_resolutions, mult)
    told = {"in_channels": 3, "model_channels": classifier_width, "out_channels": num_classes}
    told |= {"num_res_blocks": classifier_depth, "num_head_channels": 64}
    told |= {"attention_resolutions": strides, "channel_mult": mult}
    return EncoderUNetModel(**_for(EncoderUNetModel, flags) | told)


def create_gaussian_diffusion(
    *,
    steps=1000,
    learn_sigma=False,
    sigma_small=False,
    noise_schedule="linear",
    use_kl=False,
    predict_xstart=False,
    rescale_timesteps=False,
    rescale_learned_sigmas=False,
    timestep_respacing="",
    eps_scaler=1.0,
    eps_scaler_slope=0.0,
    input_pertub=0.0,
    predicts="",
):
    """The chain. `use_kl` wins over `rescale_learned_sigmas`; empty respacing keeps all steps.

    predicts: eps, x or v; empty: what predict_xstart says.
    """
    flags = locals()
    betas = gd.get_named_beta_schedule(noise_schedule, steps)
    signal = np.cumprod(1 - betas)
    log_snr = np.log(signal / (1 - signal))
    fixed = gd.ModelVarType.FIXED_SMALL if sigma_small else gd.ModelVarType.FIXED_LARGE
    mse = gd.LossType.RESCALED_MSE if rescale_learned_sigmas else gd.LossType.MSE
    return SpacedDiffusion(
        use_timesteps=space_timesteps(steps, timestep_respacing or [steps], log_snr),
        betas=betas,
        model_mean_type=MEANS[predicts or ("x" if predict_xstart else "eps")],
        model_var_type=gd.ModelVarType.LEARNED_RANGE if learn_sigma else fixed,
        loss_type=gd.LossType.RESCALED_KL if use_kl else mse,
        **_for(gd.GaussianDiffusion, flags),
    )


def create_chain(flags):
    """The chain of a dict that has the fields of DiffusionFlags, or guided-diffusion's."""
    return bound(OBJECTIVES, flags.get("objective", "ddpm"))(flags)


def _strides(image_size, attention_resolutions, mult):
    for sentence in sizes.unmet_attention(image_size, attention_resolutions, len(mult)):
        logger.log(sentence)
    return sizes.attention_strides(image_size, attention_resolutions)


def _made(factory, flags):
    return factory(**_for(factory, flags))


def _for(factory, flags):
    """Picks the flags that are the factory's arguments."""
    return {k: v for k, v in flags.items() if k in inspect.signature(factory).parameters}

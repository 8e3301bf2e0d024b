"""The names and signatures that code written for guided-diffusion uses: facts, at 22e0df8."""

import importlib
import inspect

import pytest

from flatdiff import script_util as su
from flatdiff.chain.gaussian_diffusion import GaussianDiffusion

NAMES = {
    "dist_util": "setup_dist dev load_state_dict sync_params",
    "fp16_util": (
        "INITIAL_LOG_LOSS_SCALE convert_module_to_f16 convert_module_to_f32 make_master_params "
        "model_grads_to_master_grads master_params_to_model_params unflatten_master_params "
        "get_param_groups_and_shapes master_params_to_state_dict state_dict_to_master_params "
        "zero_master_grads zero_grad param_grad_or_zeros check_overflow "
        "MixedPrecisionTrainer.zero_grad MixedPrecisionTrainer.backward "
        "MixedPrecisionTrainer.optimize MixedPrecisionTrainer.master_params_to_state_dict "
        "MixedPrecisionTrainer.state_dict_to_master_params"
    ),
    "gaussian_diffusion": (
        "get_named_beta_schedule betas_for_alpha_bar ModelMeanType ModelVarType LossType.is_vb "
        "_extract_into_tensor "
        + " ".join(
            f"GaussianDiffusion.{name}"
            for name in (
                "q_mean_variance q_sample q_posterior_mean_variance p_mean_variance "
                "_predict_xstart_from_eps _predict_xstart_from_xprev _predict_eps_from_xstart "
                "_scale_timesteps condition_mean condition_score p_sample p_sample_loop "
                "p_sample_loop_progressive ddim_sample ddim_reverse_sample ddim_sample_loop "
                "ddim_sample_loop_progressive _vb_terms_bpd training_losses _prior_bpd "
                "calc_bpd_loop"
            ).split()
        )
    ),
    "image_datasets": (
        "load_data ImageDataset _list_image_files_recursively center_crop_arr random_crop_arr"
    ),
    "logger": (
        "DEBUG INFO WARN ERROR DISABLED logkv logkv_mean logkvs dumpkvs getkvs log debug info warn "
        "error set_level get_dir record_tabular dump_tabular profile_kv profile get_current "
        "Logger configure reset scoped_configure"
    ),
    "losses": "normal_kl approx_standard_normal_cdf discretized_gaussian_log_likelihood",
    "nn": (
        "SiLU GroupNorm32 conv_nd linear avg_pool_nd update_ema zero_module scale_module mean_flat "
        "normalization timestep_embedding checkpoint"
    ),
    "resample": (
        "create_named_schedule_sampler ScheduleSampler.weights ScheduleSampler.sample "
        "UniformSampler LossAwareSampler.update_with_local_losses "
        "LossAwareSampler.update_with_all_losses LossSecondMomentResampler"
    ),
    "respace": (
        "space_timesteps SpacedDiffusion._wrap_model SpacedDiffusion._scale_timesteps _WrappedModel"
    ),
    "script_util": (
        "NUM_CLASSES diffusion_defaults classifier_defaults model_and_diffusion_defaults "
        "classifier_and_diffusion_defaults create_model_and_diffusion create_model "
        "create_classifier_and_diffusion create_classifier sr_model_and_diffusion_defaults "
        "sr_create_model_and_diffusion sr_create_model create_gaussian_diffusion "
        "add_dict_to_argparser args_to_dict str2bool"
    ),
    "train_util": (
        "TrainLoop.run_loop TrainLoop.run_step TrainLoop.forward_backward TrainLoop.log_step "
        "TrainLoop.save parse_resume_step_from_filename get_blob_logdir find_resume_checkpoint "
        "find_ema_checkpoint log_loss_dict"
    ),
    "unet": (
        "AttentionPool2d TimestepBlock TimestepEmbedSequential Upsample Downsample "
        "ResBlock._forward AttentionBlock._forward count_flops_attn QKVAttentionLegacy "
        "QKVAttention UNetModel.convert_to_fp16 UNetModel.convert_to_fp32 SuperResModel "
        "EncoderUNetModel.convert_to_fp16"
    ),
}


@pytest.mark.parametrize("module", NAMES)
def test_names_of_guided_diffusion(module):
    found = importlib.import_module(f"flatdiff.{module}")
    for path in NAMES[module].split():
        held = found
        for name in path.split("."):
            assert hasattr(held, name), f"{module}.{path}"
            held = getattr(held, name)


CHAIN = (
    "diffusion_steps noise_schedule timestep_respacing use_kl predict_xstart rescale_timesteps "
    "rescale_learned_sigmas"
)
HEADS = "num_heads num_head_channels num_heads_upsample"
CLASSIFIER = (
    "image_size classifier_use_fp16 classifier_width classifier_depth "
    "classifier_attention_resolutions classifier_use_scale_shift_norm classifier_resblock_updown "
    "classifier_pool"
)
TAIL = "use_checkpoint use_scale_shift_norm resblock_updown use_fp16"
SAMPLE = "model x t clip_denoised=True denoised_fn=None cond_fn=None model_kwargs=None"
LOOP = (
    "model shape noise=None clip_denoised=True denoised_fn=None cond_fn=None model_kwargs=None "
    "device=None progress=False"
)
SIGNATURES = {
    su.create_model_and_diffusion: (
        "image_size class_cond learn_sigma num_channels num_res_blocks channel_mult "
        f"{HEADS} attention_resolutions dropout {CHAIN} {TAIL} use_new_attention_order"
    ),
    su.create_model: (
        "image_size num_channels num_res_blocks channel_mult='' learn_sigma=False class_cond=False "
        "use_checkpoint=False attention_resolutions='16' num_heads=1 num_head_channels=-1 "
        "num_heads_upsample=-1 use_scale_shift_norm=False dropout=0 resblock_updown=False "
        "use_fp16=False use_new_attention_order=False"
    ),
    su.create_classifier_and_diffusion: f"{CLASSIFIER} learn_sigma {CHAIN}",
    su.create_classifier: CLASSIFIER,
    su.sr_create_model_and_diffusion: (
        "large_size small_size class_cond learn_sigma num_channels num_res_blocks "
        f"{HEADS} attention_resolutions dropout {CHAIN} {TAIL}"
    ),
    su.sr_create_model: (
        "large_size small_size num_channels num_res_blocks learn_sigma class_cond use_checkpoint "
        f"attention_resolutions {HEADS} use_scale_shift_norm dropout resblock_updown use_fp16"
    ),
    su.create_gaussian_diffusion: (
        "steps=1000 learn_sigma=False sigma_small=False noise_schedule='linear' use_kl=False "
        "predict_xstart=False rescale_timesteps=False rescale_learned_sigmas=False "
        "timestep_respacing=''"
    ),
    GaussianDiffusion.p_mean_variance: (
        "self model x t clip_denoised=True denoised_fn=None model_kwargs=None"
    ),
    GaussianDiffusion._vb_terms_bpd: (
        "self model x_start x_t t clip_denoised=True model_kwargs=None"
    ),
    GaussianDiffusion.training_losses: "self model x_start t model_kwargs=None noise=None",
    GaussianDiffusion.calc_bpd_loop: "self model x_start clip_denoised=True model_kwargs=None",
    GaussianDiffusion.q_sample: "self x_start t noise=None",
    GaussianDiffusion.q_posterior_mean_variance: "self x_start x_t t",
    GaussianDiffusion.condition_mean: "self cond_fn p_mean_var x t model_kwargs=None",
    GaussianDiffusion.p_sample: f"self {SAMPLE}",
    GaussianDiffusion.ddim_sample: f"self {SAMPLE} eta=0.0",
    GaussianDiffusion.p_sample_loop: f"self {LOOP}",
    GaussianDiffusion.ddim_sample_loop: f"self {LOOP} eta=0.0",
    GaussianDiffusion.ddim_sample_loop_progressive: f"self {LOOP} eta=0.0",
}


@pytest.mark.parametrize("function", SIGNATURES, ids=lambda function: function.__qualname__)
def test_arguments_are_guided_diffusions(function):
    """Its own come first, in its order and with its defaults; all of ours after them have one."""
    parameters = list(inspect.signature(function).parameters.values())
    wanted = SIGNATURES[function].split()
    if wanted[0] == "self":  # whatever the method calls it
        wanted, parameters = wanted[1:], parameters[1:]
    told = [
        p.name if p.default is p.empty else f"{p.name}={p.default!r}"
        for p in parameters[: len(wanted)]
    ]
    assert told == wanted
    assert all(p.default is not p.empty for p in parameters[len(wanted) :])

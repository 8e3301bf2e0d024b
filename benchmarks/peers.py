"""The contenders: the same weights, the same work, each in the words of its own library.

Each can run its network forward, score fixed draws (for the check that all agree), take a training
step as its users do, and sample. guided-diffusion and diffusers need to be installed.
"""

import contextlib
import copy
import dataclasses
import functools
import importlib.util
import os

import configs
import torch


@dataclasses.dataclass(frozen=True)
class Job:
    """What a contender is to build: the config, more flags for ours, and where the files are.

    `folder` holds model000000.pt and images.npz, the images of the fixed batch.
    """

    config: configs.Config
    folder: str
    device: str = "cpu"
    more: str = ""

    @property
    def weights(self) -> str:
        return os.path.join(self.folder, "model000000.pt")

    def flags(self, more: str = ""):
        text = (
            f"{self.config.flags} --batch_size {self.config.batch} --ema_rate 0.9999 "
            f"--model_path {self.weights} --data_dir {self.folder}/images.npz "
            f"--log_dir {self.folder} {self.more} {more}"
        )
        return configs.parse(text)


@contextlib.contextmanager
def opened(kind: str, job: Job):
    """The contender of that kind; ours live in a session, as the scripts do."""
    import ours

    if kind == "flatdiff":
        from flatdiff.world import dist_util

        with dist_util.session():
            peer = ours.Flatdiff(job)
            yield peer
            with torch.inference_mode():  # in which its network may have been made
                peer.held.close()
    else:
        kinds = {"plain": ours.Plain, "guided-diffusion": Guided, "diffusers": Diffusers}
        yield kinds[kind](job)


def installed(kind: str) -> bool:
    module = {"guided-diffusion": "guided_diffusion"}.get(kind, kind)
    return kind in ("flatdiff", "plain") or importlib.util.find_spec(module) is not None


def without_tf32():
    """A context for comparing: torch's convolutions on CUDA round to tf32 by default."""
    return torch.backends.cudnn.flags(enabled=True, allow_tf32=False)


class Peer:
    """A contender: `network` is in eval mode, `training` in train mode, both (x, t) -> output."""

    def __init__(self, job: Job):
        self.job = job
        self.size, self.batch = job.flags().model.image_size, job.config.batch

    def losses(self, x_start, t, noise):
        """(losses [N], norm of their mean's gradient) at fixed draws, without dropout."""
        self.training.eval()
        x_start, t, noise = (torch.from_numpy(a).to(self.job.device) for a in (x_start, t, noise))
        with without_tf32():
            terms = self.chain.training_losses(self.predict, x_start, t, {}, noise)
            terms["loss"].mean().backward()
        norm = torch.stack([w.grad.norm() for w in self.training.parameters()]).norm()
        self.training.zero_grad()
        self.training.train()
        return terms["loss"].detach().cpu().numpy(), norm.item()

    def predict(self, x, t):
        return self.training(x, t)

    def forward(self, x, t):
        with torch.inference_mode(), without_tf32():
            x, t = (torch.from_numpy(a).to(self.job.device) for a in (x, t))
            return self.network(x, t).float().cpu().numpy()

    def train_steps(self, count: int):
        for _ in range(count):
            self.train_step()

    @functools.cached_property
    def images(self):
        """The fixed batch [N, 3, H, W] in [-1, 1]."""
        import numpy as np

        with np.load(f"{self.job.folder}/images.npz") as file:
            images = torch.from_numpy(file["arr_0"][: self.batch])
        return images.permute(0, 3, 1, 2).float() / 127.5 - 1

    @property
    def shape(self):
        return self.batch, 3, self.size, self.size

    def peak_memory(self) -> float:
        """Bytes: the most that the process, or since the last call its tensors on a GPU, took."""
        if self.job.device == "cuda":
            peak = torch.cuda.max_memory_allocated()
            torch.cuda.reset_peak_memory_stats()
            return peak
        with open("/proc/self/status") as file:  # getrusage would count what came before exec
            kilobytes = next(line.split()[1] for line in file if line.startswith("VmHWM"))
        return int(kilobytes) * 1024


class Guided(Peer):
    """guided-diffusion itself, in a world of one without MPI's part in it."""

    def _build(self, **chain):
        from guided_diffusion import script_util

        from flatdiff.nets.sizes import channel_multipliers

        flags = self.job.flags()
        ours = dataclasses.asdict(flags.model) | dataclasses.asdict(flags.diffusion) | chain
        mult = channel_multipliers(self.size, flags.model.channel_mult)
        ours["channel_mult"] = ",".join(map(str, mult))
        known = script_util.model_and_diffusion_defaults()
        model, diffusion = script_util.create_model_and_diffusion(
            **known | {k: v for k, v in ours.items() if k in known}
        )
        model.load_state_dict(torch.load(self.job.weights))
        return model.to(self.job.device), diffusion

    @functools.cached_property
    def loop(self):
        from guided_diffusion import logger
        from guided_diffusion.train_util import TrainLoop

        logger.configure(dir=f"{self.job.folder}/guided", format_strs=[])
        _world_of_one(self.job.folder)
        model, diffusion = self._build()
        train = self.job.flags().train
        names = ("lr", "ema_rate", "log_interval", "save_interval", "weight_decay", "microbatch")
        return TrainLoop(
            model=model,
            diffusion=diffusion,
            data=None,
            batch_size=self.batch,
            resume_checkpoint="",
            **{name: getattr(train, name) for name in names},
        )

    @property
    def training(self):
        return self.loop.model

    @property
    def chain(self):
        return self.loop.diffusion

    def train_step(self):
        self.loop.run_step(self.images, {})

    def read(self, folder: str, count: int):
        """One epoch of its loader over the files."""
        from guided_diffusion.image_datasets import load_data

        data = load_data(data_dir=folder, batch_size=self.batch, image_size=self.size)
        for _ in range(count // self.batch):
            next(data)

    @functools.cached_property
    def sampler(self):
        model, diffusion = self._build(timestep_respacing=str(self.job.config.chain))
        return model.eval(), diffusion

    @property
    def network(self):
        return self.sampler[0]

    def sample(self):
        model, diffusion = self.sampler
        diffusion.p_sample_loop(model, self.shape, device=self.job.device)


class Diffusers(Peer):
    """diffusers' UNet2DModel with our weights; its scheduler, its EMA, our losses and AdamW."""

    def __init__(self, job):
        super().__init__(job)
        from diffusers import DDPMScheduler

        from flatdiff.exchange import diffusers_config
        from flatdiff.models.factories import create_chain

        chain = dataclasses.asdict(job.flags().diffusion)
        self.chain = create_chain(chain)
        self.scheduler = DDPMScheduler.from_config(diffusers_config.scheduler_config(chain))
        self.scheduler.set_timesteps(job.config.chain)

    def _build(self):
        from diffusers import UNet2DModel

        from flatdiff.exchange import diffusers_format

        flags = self.job.flags()
        unet = unet_config(flags)
        weights = diffusers_format.to_diffusers(
            torch.load(self.job.weights), unet, flags.model.use_new_attention_order
        )
        model = UNet2DModel.from_config(unet)
        model.load_state_dict(weights)
        return model.to(self.job.device)

    @functools.cached_property
    def training(self):
        return self._build().train()

    @functools.cached_property
    def optimizer(self):
        from diffusers.training_utils import EMAModel

        train, weights = self.job.flags().train, list(self.training.parameters())
        opt = torch.optim.AdamW(weights, lr=train.lr, weight_decay=train.weight_decay)
        return opt, EMAModel(weights, decay=float(train.ema_rate))

    def predict(self, x, t):
        return self.training(x, t).sample

    def train_step(self):
        opt, ema = self.optimizer
        x_start = self.images.to(self.job.device)
        t = torch.randint(self.chain.num_timesteps, (self.batch,), device=self.job.device)
        opt.zero_grad()
        self.chain.training_losses(self.predict, x_start, t)["loss"].mean().backward()
        opt.step()
        ema.step(self.training.parameters())

    @functools.cached_property
    def unet(self):
        return self._build().eval()

    def network(self, x, t):
        return self.unet(x, t).sample

    def sample(self):
        x = torch.randn(self.shape, device=self.job.device)
        with torch.no_grad():
            for t in self.scheduler.timesteps:
                x = self.scheduler.step(self.unet(x, t).sample, t, x).prev_sample


def unet_config(flags):
    """UNet2DModel's config of the flags; ValueError where diffusers has no such network."""
    from flatdiff.exchange import diffusers_config

    network = dataclasses.asdict(flags.model) | {"learn_sigma": flags.diffusion.learn_sigma}
    return diffusers_config.unet_config(copy.deepcopy(network))


def _world_of_one(folder):
    """guided-diffusion asks torch for its world and broadcasts in it."""
    import torch.distributed as dist

    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    store = f"file://{folder}/world_{os.getpid()}"
    dist.init_process_group(backend, init_method=store, rank=0, world_size=1)

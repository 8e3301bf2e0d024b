# flatdiff on Debian with PyTorch for CPUs, as a user without rights:
#     docker build --tag flatdiff . && docker run --rm --shm-size 2g flatdiff --help
# For a GPU: --build-arg TORCH_INDEX=https://pypi.org/simple, and docker run --gpus all.
FROM python:3.11-slim-bookworm

# g++ compiles the kernels at the first run
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++=4:12.2.0-3 \
    && rm -rf /var/lib/apt/lists/*

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
COPY constraints.txt /tmp/
RUN pip install --no-cache-dir --constraint /tmp/constraints.txt --index-url "$TORCH_INDEX" torch

COPY . /src
RUN pip install --no-cache-dir "/src[mpi,digits,tensorboard,lite0]" \
    && rm -r /src \
    && useradd --create-home --uid 1000 flatdiff \
    && install --directory --owner flatdiff /workspace

USER 1000
WORKDIR /workspace
ENTRYPOINT ["flatdiff"]
CMD ["--help"]

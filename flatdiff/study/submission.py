"""Jobs of a cluster, by submitit; those that are ready together are one array."""

import subprocess


class Cluster:
    """Takes (command, log) pairs. They go on after the study was stopped."""

    slots = 10**6  # the cluster has its own queue

    def __init__(self, cluster: str, text: str, folder: str):
        try:
            import submitit
        except ImportError as error:
            raise ValueError(
                "--cluster needs submitit: pip install submitit, or leave it out to run here"
            ) from error
        self.executor = submitit.AutoExecutor(folder=folder, cluster=cluster)
        self.executor.update_parameters(**options(text))

    def submit(self, commands: list[tuple[list[str], str]]) -> list["Submitted"]:
        if not commands:
            return []
        with self.executor.batch():
            handles = [self.executor.submit(call, *each) for each in commands]
        return [Submitted(handle) for handle in handles]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        """The same command finds what they did."""


class Submitted:
    """A job of submitit, asked as a process is."""

    def __init__(self, handle):
        self.handle = handle

    def poll(self) -> int | None:
        if not self.handle.done():
            return None
        return 1 if self.handle.exception() else self.handle.result()


def call(command: list[str], log: str) -> int:
    """On the cluster: the job as a process; its exit code."""
    with open(log, "a") as file:
        return subprocess.run(command, stdout=file, stderr=file).returncode


def options(text: str) -> dict:
    """Text as slurm_partition=gpu,timeout_min=600 -> values by name, whole numbers as such."""
    pairs = [part.partition("=") for part in text.split(",") if part.strip()]
    if not all(name and value for name, _, value in pairs):
        raise ValueError(f"--cluster_options is {text!r}; expected name=value separated by commas")
    return {name.strip(): int(v) if v.isdigit() else v for name, _, v in pairs}

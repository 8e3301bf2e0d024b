"""Which rows are measured of which configs, in what order."""

import contextlib
import dataclasses
import sys

import configs
import gpu
import rows
from team import Disagreement, Team

CPU = {  # row -> its function, and the configs that it is measured of
    "train": (rows.train, "SCF"),
    "bf16": (rows.bf16, "SCF"),
    "sam": (rows.sam, "SC"),
    "climbs": (rows.climbs, "S"),
    "sample": (rows.sample, "SCF"),
    "int8": (rows.int8, "SC"),
    "flatness": (rows.flatness, "SC"),
    "hessian": (rows.hessian, "SC"),
    "memory": (rows.memory, "SCF"),
    "loading": (rows.loading, "S"),
    "startup": (rows.startup, "S"),
    "ranks": (rows.ranks, "SC"),
}
GPU = {
    "tests": (gpu.tests, ["cifar10"]),
    "train": (gpu.train, configs.GPU),
    "sample": (gpu.sample, configs.GPU),
    "flatness": (gpu.flatness, configs.GPU),
}
SUITES = {"cpu": (configs.CPU, CPU), "gpu": (configs.GPU, GPU)}
DTYPES = {"cpu": ["float32", "bfloat16"], "gpu": ["float32", "bfloat16"]}


def measure(args, folder: str, failures: list[str]):
    """The rows that were asked for; what could not be measured is told in `failures`."""
    known, functions = SUITES[args.suite]
    wanted = _chosen("configs", args.configs, known), _chosen("rows", args.rows, functions)
    for name in wanted[0]:
        config = known[name]
        if args.suite == "gpu" and args.device == "cpu":
            config = configs.small(config)
        if args.repeats:
            config = dataclasses.replace(config, repeats=args.repeats)
        team = Team(config, folder, args.device)
        with contextlib.closing(team):
            for row in wanted[1]:
                function, where = functions[row]
                if name in where:
                    yield from _guarded(function, team, failures)


def _guarded(function, team, failures):
    """The rows of the function, each told on the way: all of them together take minutes."""
    print(f"{team.config.name}: {function.__name__} ...", file=sys.stderr, flush=True)
    try:
        for row in function(team):
            print(f"    {row.summary}", file=sys.stderr, flush=True)
            yield row
    except (Disagreement, RuntimeError) as error:
        failures.append(f"{function.__name__} of {team.config.name}: {error}")
        print(f"    {failures[-1]}", file=sys.stderr, flush=True)


def _chosen(flag: str, text: str, known) -> list[str]:
    names = text.split(",") if text else list(known)
    if unknown := [name for name in names if name not in known]:
        raise SystemExit(f"--{flag} {','.join(unknown)}: expected some of {','.join(known)}")
    return names

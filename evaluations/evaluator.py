"""Compare generated images with a reference: FID and its kin, as a table and as JSON.

    python evaluations/evaluator.py REFERENCE SAMPLES --inception_weights FILE
    python evaluations/evaluator.py REFERENCE SAMPLES --features lite0
    python evaluations/evaluator.py REFERENCE SAMPLES OTHERS --features lite0
    python evaluations/evaluator.py REFERENCE --features lite0 --floor 10000

REFERENCE and SAMPLES are .npz files (arr_0, uint8 [N, H, W, 3]) or folders of images. Statistics
mu, sigma, mu_s, sigma_s in the reference are used for FID and sFID. Of several SAMPLES the others
are compared with the first: the difference, and the smallest that could have been seen.
"""

import argparse
import functools
import importlib.util
import json
import os
import statistics
import sys
from pathlib import Path

if importlib.util.find_spec("flatdiff") is None:
    sys.path.append(str(Path(__file__).parents[1]))


def create_argparser() -> argparse.ArgumentParser:
    from flatdiff import __version__
    from flatdiff.flags.choices import read
    from flatdiff.flags.files import path
    from flatdiff.flags.parse import Parser
    from flatdiff.judge.names import DINOV2_FILE, FEATURES, INCEPTION_FILE

    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.register("type", None, path)  # which shells leave to us behind a =
    parser.add_argument("--version", action="version", version=f"flatdiff {__version__}")
    parser.add_argument("reference", metavar="REFERENCE", help=".npz or folder of real images")
    parser.add_argument(
        "samples",
        metavar="SAMPLES",
        nargs="*",
        help=".npz or folder of generated images; may be left out where there is a --floor",
    )
    whole = functools.partial(read, int)
    floor = "Frechet distances of N of the reference's own images too, as a perfect copy would get"
    parser.add_argument(
        "--floor", type=whole, metavar="N", default=0, help=f"{floor}; default none"
    )
    parser.add_argument(
        "--features",
        choices=FEATURES,
        help="default inception if its weights are given. "
        + "; ".join(f"{name}: {told}" for name, (_, told) in FEATURES.items()),
    )
    parser.add_argument(
        "--inception_weights",
        metavar="FILE",
        help=f"{INCEPTION_FILE} of pytorch-fid, or torch-fidelity's copy of it",
    )
    parser.add_argument("--dinov2_weights", metavar="FILE", help=f"{DINOV2_FILE} of DINOv2")
    copies = "to look for copies, .npz or folder; default none"
    parser.add_argument("--train_data", help=f"images that the model was trained on, {copies}")
    parser.add_argument("--heldout_data", help=f"images of that source that it was not, {copies}")
    parser.add_argument("--batch_size", type=whole, default=64, help="images a batch; default 64")
    parser.add_argument("--device", help="cpu or cuda; default cuda if there is one")
    parser.add_argument("--seed", type=whole, default=0, help="of the subsets drawn; default 0")
    parser.add_argument("--json", metavar="FILE", help="write the numbers there too")
    parser.add_argument(
        "--transparent",
        choices=("white", "refuse", "drop"),
        default="white",
        help="transparent pictures are laid on white (default), refused, or show hidden colours",
    )
    parser.add_argument(
        "--cache_dir",
        help="where features of references are kept; default ~/.cache/flatdiff; '' keeps nothing",
    )
    return parser


def main(argv: list[str] | None = None) -> dict:
    parser = create_argparser()
    args = parser.parse_args(argv)
    if not (args.samples or args.floor):
        parser.error("the following arguments are required: SAMPLES, or --floor N")
    if args.batch_size < 1:
        raise SystemExit(f"--batch_size is {args.batch_size}, expected 1 or more")
    if args.seed < 0:
        raise SystemExit(f"--seed is {args.seed}, expected 0 or more")
    if args.floor and args.floor < 4:
        raise SystemExit(f"--floor is {args.floor}, expected 4 images or more, or 0 for none")
    try:
        result = run(args)
        code = sys.stdout.encoding or "utf-8"  # ascii, in some terminals
        print(table(result).encode(code, "backslashreplace").decode(code))
        if args.json:
            print(f"JSON: {write_json(result, args.json)}")
    except (ValueError, OSError, MemoryError) as error:
        raise SystemExit(f"evaluator: {error or 'not enough memory'}") from error
    return result


def run(args: argparse.Namespace) -> dict:
    from flatdiff.bars import Bar
    from flatdiff.judge.evaluate import evaluate, floor_of
    from flatdiff.judge.features import load_features

    files = args.inception_weights, args.device, args.cache_dir, args.dinov2_weights
    features = load_features(args.features, *files)
    if features.name == "digits":
        print(f"digit classifier: {float(features.network.accuracy):.1%} of held-out digits right")
    how = {k: getattr(args, k) for k in ("batch_size", "cache_dir", "seed", "transparent")}
    how["progress"] = Bar
    more = how | {"train": args.train_data, "held_out": args.heldout_data}
    results = [
        {"samples": os.path.abspath(path)} | evaluate(args.reference, path, features, **more)
        for path in args.samples
    ]
    result = {"reference": os.path.abspath(args.reference)}
    if results:
        result |= compared(results)
    if args.floor:
        result["features"] = features.name
        result["floor"] = floor_of(args.reference, args.floor, features, **how)
    return {**result, "weights_sha256": features.fingerprint, "seed": args.seed}


def compared(results: list[dict]) -> dict:
    """The first result, with the smallest differences that could have been seen; "others", and
    "differences" of each from the first."""
    from flatdiff.judge.evaluate import difference, seen

    first, *others = results
    told = first | {"smallest_seen": seen(first)}
    if others:
        told["others"] = others
        told["differences"] = [
            {"samples": other["samples"], "metric": name}
            | (found := difference(other, first, name))._asdict()
            | {"verdict": found.verdict}
            for other in others
            for name in first["left_out"]
            if name in other["metrics"]
        ]
    return told


def table(result: dict) -> str:
    """The result for a terminal: one metric a line, with its error or deviation."""
    lines = [f"reference: {result['reference']}"]
    if "samples" in result:
        lines = [text for each in (result, *result.get("others", ())) for text in _of_samples(each)]
        lines += _differences(result) + [""] + _settings(result)
    if floor := result.get("floor"):
        told = (f"{statistics.fmean(v):.5g} +- {statistics.stdev(v):.2g}" for v in floor.values())
        lines.append("as many of the reference's own: {}; for endless samples {}".format(*told))
    elif "floor" in result:
        lines.append("warning: the reference has no images: no floor")
    return "\n".join(lines)


def _of_samples(result: dict) -> list[str]:
    from flatdiff.judge import settings

    lines = []
    if "reference" in result:
        lines = [f"reference: {result['reference']}  ({result['num_reference']} images)"]
    lines.append(f"samples:   {result['samples']}  ({result['num_samples']} images)")
    lines.append(f"drawn:     {settings.origin(result['samples'])}")
    if "reference" in result:
        lines.append(f"features:  {result['features']}, {result['feature_dim']} an image")
    if result["reference_cache"]:
        lines.append(f"reference features from {result['reference_cache']}")
    lines.append("")
    metrics = result["metrics"]
    for name, value in metrics.items():
        if name.endswith(("_error", "_std", "_plain")):
            continue
        error, deviation = metrics.get(f"{name}_error"), metrics.get(f"{name}_std")
        spread = f" +- {error:.2g}" if error is not None else ""
        of = "a subset" if error is not None else "a part"
        spread += f"  (deviation of {of}: {deviation:.2g})" if deviation is not None else ""
        lines.append(f"{name:22s}{value:12.5g}{spread}{_about(name)}")
    return lines + [""] + [f"warning: {text}" for text in result["warnings"]]


def _about(name: str) -> str:
    kind = name.partition("-")[0]
    if kind == "nearer":
        return "  (share that is nearer to training images than held-out ones are; fair: 0.5)"
    return "  (below -3: copies of training images)" if kind == "C_T" else ""


def _differences(result: dict) -> list[str]:
    if "differences" not in result:
        told = (f"{name} {value:.2g}" for name, value in result["smallest_seen"].items())
        text = "smallest difference from another such set that could be seen (80 %, alpha 5 %): "
        return [text + (", ".join(told) or "none: fewer than 20 images")]
    lines = ["less the first:"]
    for d in result["differences"]:
        told = f"95 % from {d['low']:.4g} to {d['high']:.4g}; smallest seen (80 %): {d['seen']:.2g}"
        value = f"{d['metric']:22s}{d['value']:+12.5g} +- {d['error']:.2g}"
        lines.append(
            f"{value}  {told}: {d['verdict'] or 'unknown'}  ({os.path.basename(d['samples'])})"
        )
    return lines


def _settings(result: dict) -> list[str]:
    from flatdiff.judge import settings

    several = result, *result.get("others", ())
    every = [each["settings"] for each in several]
    other = settings.differing([each["samples"] for each in several])
    over = "one standard error over samples, the reference held fixed; training seeds add to it"
    more = {"+-": over} | ({"note": other} if other else {})
    return settings.lines(settings.common(every), more)


def write_json(result: dict, path: str) -> str:
    from flatdiff.judge.files import write_atomically

    text = json.dumps(result, indent=2) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))
    return os.path.abspath(path)


if __name__ == "__main__":
    main()

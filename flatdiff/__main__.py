"""The command `flatdiff VERB --flags`: each verb is a script, run as python would run it."""

import ast
import difflib
import sys
from pathlib import Path

from . import __version__

HOME = Path(__file__).parent
VERBS = {
    "train": "scripts/image_train.py",
    "sample": "scripts/image_sample.py",
    "sample-quant": "scripts/image_sample_quant.py",
    "flatness": "scripts/flatness.py",
    "averages": "scripts/averages.py",
    "exposure": "scripts/exposure_bias.py",
    "exposure-bench": "scripts/exposure_bench.py",
    "perturbed-samples": "scripts/perturbed_samples.py",
    "nll": "scripts/image_nll.py",
    "evaluate": "evaluations/evaluator.py",
    "compare": "scripts/compare.py",
    "report": "scripts/report.py",
    "study": "scripts/study.py",
    "export": "scripts/export_diffusers.py",
    "classifier-train": "scripts/classifier_train.py",
    "classifier-sample": "scripts/classifier_sample.py",
    "super-res-train": "scripts/super_res_train.py",
    "super-res-sample": "scripts/super_res_sample.py",
}


def main() -> None:
    """The command line of this process."""
    run(sys.argv[1:])


def run(argv: list[str]) -> None:
    """Run the script of the first word on the others. SystemExit with its status where it ends."""
    word, *others = argv or ["--help"]
    if word == "data" and others:
        word, *others = f"data {others[0]}", *others[1:]
    scripts = {verb: HOME / file for verb, file in VERBS.items()}
    scripts |= {f"data {p.stem}": p for p in data_sets()}
    if word in ("-h", "--help", "data"):
        print(usage(scripts, word if word == "data" else ""))
    elif word == "--version":
        print(__version__)
    elif word == "--print-completion":
        from .flags import completion

        try:
            print(completion.script(" ".join(others), scripts, start))
        except ValueError as error:
            sys.exit(f"flatdiff: error: {error}")
    elif word in scripts:
        sys.argv = [f"flatdiff {word}", *others]
        start(scripts[word])
    else:
        near = difflib.get_close_matches(word, scripts, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        sys.exit(f"flatdiff: error: there is no command {word!r}{hint}\n(--help lists them all)")


def start(path: Path) -> None:
    """Run a script, with the flags in sys.argv."""
    if (home := str(path.parent)) not in sys.path:
        sys.path.insert(0, home)  # where its neighbours are
    code = compile(path.read_text(), path, "exec")  # runpy would tell errors as the file's
    exec(code, {"__name__": "__main__", "__file__": str(path)})


def data_sets() -> list[Path]:
    """The scripts that make a folder of images."""
    return [path for path in sorted((HOME / "datasets").glob("*.py")) if path.stem != "common"]


def usage(scripts: dict[str, Path], start: str) -> str:
    """What each command does, in the first line of its script."""
    lines = ["flatdiff COMMAND --flags; flatdiff COMMAND --help lists the flags of one"]
    lines += ['eval "$(flatdiff --print-completion bash)" lets the shell complete them', ""]
    for verb, path in scripts.items():
        if verb.startswith(start):
            about = ast.get_docstring(ast.parse(path.read_text())).split("\n")[0]
            lines.append(f"  {verb:<20} {about}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()

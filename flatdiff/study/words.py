"""What a study's report says around its tables: how to read them, and where to doubt them."""

from ..measure.exposure_report import UNDERFIT
from . import tables
from .rows import underfits


def underfitting(summary: list[dict]) -> str:
    """Which kinds of model predict too little noise on real images for a gap to say much."""
    measured = [row for row in summary if row["noise_norm"]]
    if not measured:
        return ""
    told = []
    for key, where in (("start", "nearest t = 0"), ("mean", "over the rest of the chain")):
        names = [tables.label(row) for row in measured if underfits(row, key)]
        every = len(names) == len(measured)
        told += [f"{where} of {'every model' if every else ', '.join(names)}"] if names else []
    return (
        f"The noise's own norm is √(3HW) = {measured[0]['noise_norm']:.4g}. Where the norm in "
        f"training is below {UNDERFIT:.0%} of it, the network predicts too little of the noise of "
        "real images too, as it fits them too little or as nobody can tell their noise from them; "
        "a gap there is no measure of exposure bias alone. "
        f"So it is {'; '.join(told) or 'nowhere here'}. A verdict on gaps says underfitting where, "
        "besides, they differ more by the norm in training than by that in sampling."
    )


def notes(report) -> list[str]:
    """How to read the tables of a `study_report.Report`."""
    f = report.settings["flags"]
    s, train = f["study"], f["train"]
    rate = "constant" if not train["lr_anneal_steps"] else "annealed"
    return [
        f"± is half of a 95 % interval over seeds (Student's t). {report.distance} is the "
        f"Frechet distance between features of {s['num_samples']} samples and of the training "
        "data: compare it within this study only. Bold: the lowest of a column.",
        f"The last row of the first table: {s['num_samples']} images drawn from the training "
        "data with replacement, ± over ten draws. A perfect copy of the data would get that, and "
        "no lower distance means more. Endless samples: where a line through the "
        "distances of all samples and of half of them ends.",
        f"All averages are of the same trainings, whose learning rate is {rate}: EMA and SWA "
        "only watch the weights. SWA is the mean over the last quarter of the steps, unless "
        "flags say otherwise.",
        "All models are measured on the same images, timesteps, noise and weight "
        f"perturbations. LPF and MC are the rise of {report.term} at the middle sigma and "
        "radius; in filter units, the noise of a filter is in proportion to its length, so "
        "that a network of larger weights does not look flatter. The eigenvalue is that of "
        "the Hessian of the mean squared error.",
        "Images are those that a gradient was taken of: a step of SAM takes two of each. "
        f"{'Processor seconds' if report.on_cpu else 'Seconds'} are of the training alone.",
        "A verdict pairs models by seed: Student's t interval of the difference at 95 %. A "
        "negative difference is for the claim. The smallest effect: the true difference that "
        "would be told from 0 in 80 % of such studies, with this scatter and as many seeds.",
        "One claim in twenty without an effect is decided by chance. After Holm's correction "
        "that is so of one family of claims in twenty. The families: the paper's claims, and "
        "those at equal cost (not in the paper).",
        "Sharpness against loss: r over all models; its p is from trainings that change places "
        "within their seed, the models of a training together. It says that they go together "
        "among these trainings, which differ in more than sharpness.",
    ]

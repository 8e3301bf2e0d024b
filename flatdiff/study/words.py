"""What a study's report says around its tables: what was found, how to read it, where to doubt."""

from ..measure.exposure_report import UNDERFIT
from ..weights import averaging
from . import across, claims, tables
from .rows import measures_of, not_finite, underfits

FAIR = (
    "Is the second pass worth it? The Frechet distance of each gradient that climbs, less that of "
    "Adam of the same cost within 2 %:"
)
LESS = (
    "Each less another, paired by seed, ± half of a 95 % interval; in brackets the smallest true "
    "difference that four of five such studies would have seen. A tie: nothing was seen, which is "
    "not equality."
)
CLAIMS = (
    "The claims: each difference in percent of the other model's value (of its distance, where a "
    "loss to rounding is claimed), with its 95 % interval. Filled: decided after Holm's correction "
    "too. Left of 0 is for the claim."
)
CONTROLS = (
    "Is it SAM's doing? A control moves the weights as far, but not uphill, for the gradient that "
    "it follows:"
)
ALONG = (
    "The distance, in the first of --sampling_steps, at the last checkpoints of each training. "
    "Where the last is a tie with the one before, longer training was not seen to help."
)
SCATTER = (
    "Standard deviations of one number of the table above, which all kinds are taken to share. Of "
    "the generation seed: by samples of several (--generation_seeds), else by the jackknife over "
    "images, too large near a perfect copy. What trainings share for being sampled from the same "
    "noise is in the generation seed's part alone. Of the checkpoint: around the mean of its step "
    "over trainings; of one training, with what it gains between them."
)
COPIES = (
    "Nearer to images trained on than those held out: the share of the pairs of a sample and an "
    "image of --heldout_data in which the sample is the nearer one, by the distances' features "
    "(Meehan et al. 2020). 0.5 is fair; above it, samples sit on images trained on."
)
OUTCOME = {claims.HOLDS: "SAM wins", claims.FAILS: "SAM loses", claims.UNDECIDED: "undecided"}


def about(report) -> str:
    """What a `report.Report` is of, in a sentence."""
    settings, f = report.settings, report.settings["flags"]
    trained = len({m.training.cell.key for m in report.models})
    seeds = f["study"]["seeds"]
    return (
        f"{trained} trainings ({seeds} seed{'s' * (seeds > 1)} of each kind), "
        f"{len(report.models)} models, images of {f['model']['image_size']} pixels; commit "
        f"{settings['commit']}, torch {settings['torch']}, {settings['device']}."
    )


def made_by(report) -> dict[str, str]:
    """The five settings that make the distances of a `report.Report`."""
    f, distances = report.settings["flags"], list(report.scatter)
    results = [r for m in report.models for c in distances if (r := m.cells[c].result())]
    known = next((r for r in results if "settings" in r), {"settings": {}})
    made, steps = known["settings"], ", ".join(tables.way(report.summary, c) for c in distances)
    weights = ", ".join(dict.fromkeys(m.average for m in report.models))
    size = f["model"]["image_size"]
    return {
        "weights": f"{weights} (none: the last weights), at the end of each training",
        "samples": f"{f['study']['num_samples']}, each model's by its training's seed; {steps}",
        "features": made.get("features", report.settings["features"]),
        "reference": f"{known.get('num_reference', 'all')} images of the training data",
        "resize": made.get("resize", f"{size}x{size}"),
    }


def missing(report) -> list[str]:
    """What a reader should know before any number."""
    models = report.models
    all_cells = {cell.key: cell for m in models for cell in m.cells.values()}
    left = sum(cell.result() is None for cell in all_cells.values())
    told = [f"{left} of {len(all_cells)} measurements are missing."] if left else []
    if strange := not_finite(models):
        told.append(f"Not finite, and left out as if missing: {'; '.join(strange)}.")
    if any(m.average == "ema" for m in models):
        rate = float(report.settings["flags"]["train"]["ema_rate"].split(",")[0])
        steps = dict.fromkeys(m.training.steps for m in models)
        texts = filter(None, (averaging.caution(rate, n) for n in steps))
        told += [f"{text[0].upper()}{text[1:]}." for text in texts]
    return told


def short(found: list[claims.Verdict]) -> str:
    """The paper's claims, counted; "" where others alone were made."""
    others = claims.FAIR, claims.AGAINST, claims.CONTROL, across.ACROSS
    paper = [v for v in found if v.place not in others]
    if not paper and len(paper) < len(found):
        return ""
    plain, after = ([getattr(v, name) for v in paper] for name in ("verdict", "holm"))
    return (
        f"Of {len(paper)} claims of the paper, {plain.count(claims.HOLDS)} hold, "
        f"{plain.count(claims.FAILS)} do not, and {plain.count(claims.UNDECIDED)} are undecided at "
        "95 %, each for itself. Taken together, by Holm's correction for all of them, "
        f"{after.count(claims.HOLDS)} hold and {after.count(claims.FAILS)} do not."
    )


def controls(found: list[claims.Verdict]) -> list[str]:
    """What the controls decide, in sentences."""
    told = []
    for place, what in (
        (claims.AGAINST, "claims that SAM is flatter than a control"),
        (claims.CONTROL, "claims of the paper, made of a control"),
    ):
        family = [v for v in found if v.place == place]
        plain, after = ([getattr(v, name) for v in family] for name in ("verdict", "holm"))
        told += [
            f"of {len(family)} {what}, {plain.count(claims.HOLDS)} hold and "
            f"{plain.count(claims.FAILS)} do not, after Holm {after.count(claims.HOLDS)} and "
            f"{after.count(claims.FAILS)}"
        ] * bool(family)
    return told


def fair(rows: list[dict], found: list[claims.Verdict]) -> list[str]:
    """Each gradient that climbs against Adam of equal cost, in sentences."""
    told = []
    for v in (v for v in found if v.place == claims.FAIR):
        name, _, against = v.text.partition(" has a lower distance than ")
        side = "lower (better)" if v.estimate < 0 else "higher (worse)"
        interval = "" if v.low is None else f" (95 % interval {v.low:+.3g} to {v.high:+.3g})"
        size = f"{side} by {abs(v.estimate):.3g}{interval}: {OUTCOME[v.verdict]}"
        told.append(f"{name} against {against.replace(' at equal cost', '')}: {size}")
    alone = (name for name in claims.climbing(rows) if not claims.of_equal_cost(rows, name))
    return told + [f"{name}: no Adam of the same cost stands beside it" for name in alone]


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


def measured(verb: str) -> str:
    """What the measures of one command are."""
    told = "; ".join(measure.help for measure in measures_of(verb).values())
    return told[0].upper() + told[1:]


def notes(report) -> list[str]:
    """How to read the tables of a `report.Report`."""
    f = report.settings["flags"]
    s, train = f["study"], f["train"]
    families = "the paper's claims, those at equal cost (not in the paper), those against controls "
    families += "and those of controls"
    families += "; each objective against the first is one more" if report.several else ""
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
        *([COPIES] if f["study"]["heldout_data"] else []),
        "The models of one seed are sampled from the same noise, and measured on the same images, "
        "timesteps, noise and weight perturbations; those of another seed on others, so that ± "
        "covers these, too.",
        *(measure.note for measure in measures_of().values() if measure.note),
        "Images are those that a gradient was taken of: a step of SAM takes two of each. "
        f"{'Processor seconds' if report.on_cpu else 'Seconds'} are of the training alone.",
        "A verdict pairs models by seed: Student's t interval of the difference at 95 %. A "
        "negative difference is for the claim. The smallest effect: the true difference that "
        "would be told from 0 in 80 % of such studies, with this scatter and as many seeds.",
        "One claim in twenty without an effect is decided by chance. After Holm's correction "
        f"that is so of one family of claims in twenty. The families: {families}.",
        *report.settings["objectives"],
        "Sharpness against loss: r over all models; its p is from kinds of training that change "
        "places with all of their models, as what makes a kind lose more lies in all of its seeds. "
        "Four kinds or fewer cannot decide it; and that they go together is no cause.",
    ]

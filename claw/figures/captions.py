"""What a figure shows, in words, by its name: for pages on which figures stand without the notebook that drew them."""

import re

RESPONSES = {"loss": "loss on held-out text", "accuracy": "share of questions answered rightly"}
AXES = {"ratio_params": "the share of all parameters removed", "ratio": "the method's own ratio"}
CAPTIONS = {
    r"(loss|accuracy)_by_(ratio_params|ratio)(?:_(\d+))?": "{0} against {1}. Points are measured, with their standard error; "
    "lines go through them; the bands say how sure a line is (dark) and where a new run may fall (light); dotted is the dense "
    "model.",
    r"paper_(loss|accuracy)": "{0} against the share of all parameters removed, and against the method's own ratio; dotted "
    "is the dense model.",
    r"(?:out_of_sample_(loss|accuracy)|paper_forms)": "How far each form of law is off on models, or on ratios, to which it "
    "was not fitted. Farther left is better.",
    r"diagnostics_(loss|accuracy)": "Whether the law of {0} may be trusted: what it leaves unexplained against the ratio, "
    "whether that is normally distributed, and how much each coefficient hangs on a single model.",
    r"paper_left_out": "Loss predicted by laws that had not seen the model, against the loss measured; on the line both agree.",
    r"paper_speed": "Measured speed against the share removed, with intervals; dashed is what would be possible at best.",
    r"paper_pareto": "Loss against the time to write one token. On the grey line are the models that no other beats in both.",
    r"paper_radar": "How much of each ability above guessing is kept; the outer ring is the dense model.",
    r"paper_recovery": "How much of the loss a short training after the cut wins back.",
    r"guide_(loss|accuracy)_by_(\w+)": "{0} against what a model costs; the star is what is advised.",
    r"foretold": "What laws said of a model before anything of it was measured, with their bands, and what was then measured.",
    r"loss_curve": "Loss on held-out text against the share of all parameters removed; dotted is the dense model.",
    r"kept_map": "What was removed where: a row is a layer, dark was kept, light was cut.",
    r"evaluation": "Loss and accuracy against the share removed; dashed is the dense model, dotted is guessing.",
    r"speedups": "Measured speed-up over the dense model; a tick marks what would be possible.",
}


def caption(name: str) -> str:
    """What the figure of this name shows, in words; its name where it is none of claw's."""
    for pattern, text in CAPTIONS.items():
        if match := re.fullmatch(pattern, name):
            parts = [part or "" for part in match.groups()]
            said = text.format(*(RESPONSES.get(part) or AXES.get(part) or part for part in parts))
            tokens = f" After {int(parts[2]):,} tokens of recovery." if len(parts) > 2 and parts[2] else ""
            return said[0].upper() + said[1:] + tokens
    return name.replace("_", " ")

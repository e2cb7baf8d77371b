"""Which method makes a model smaller where the user names none, and why.

`claw` loses least (docs/methods.md), but measures the model first, and each of its compressions refits every matrix: minutes
for 135 million parameters on two cores, and proportionally more for larger models. It is taken where that is a few minutes.
"""

from claw.models.anatomy import Anatomy
from claw.prune import regression, trial_cut, whole_model
from claw.specs.shrinking import ShrinkParameters

BEST, SIMPLE = "claw", "flap+ridge"
RIGID = ("Qwen2ForCausalLM", "Gemma3ForCausalLM")  # llama.cpp wants all heads of the one, and the order of the other's layers
MOST_PARAMETERS = 200_000_000  # on a CPU; on a GPU minutes are seconds


def default_method(asked: ShrinkParameters, parts: Anatomy) -> tuple[str, str]:
    """A method's name, and a sentence that says why it was taken."""
    why = _why_not_best(asked, parts)
    if why:
        return SIMPLE, f"Method {SIMPLE}, because {why}."
    return BEST, f"Method {BEST}, which loses least; --method {SIMPLE} is quicker."


def _why_not_best(asked: ShrinkParameters, parts: Anatomy) -> str:
    """Why `claw` is not taken; empty if it is."""
    if asked.until is not None:
        return "until compresses five times or more, and claw takes minutes for each (--method claw loses less)"
    if (size := parts.shape.parameters) > MOST_PARAMETERS and parts.device.type == "cpu":
        return f"claw would measure a model of {size / 1e6:,.0f}M parameters for long on a CPU (--method claw loses less)"
    if asked.gguf and type(parts.model).__name__ in RIGID:
        return "llama.cpp does not hold every shape of this architecture, and claw may choose such a one"
    for axis in whole_model.ALWAYS_CUT:
        if reason := trial_cut.why_not(parts, axis):
            return f"claw cannot cut this model ({reason})"
    if not regression.supports(parts):
        return "the blocks of this model cannot be refitted as claw does it"
    return ""

"""What to do about unreliable estimates: it depends on the question, on the method at hand, and on the model."""

from __future__ import annotations

from pyro_vae.evaluation.base import Method
from pyro_vae.inference import pareto
from pyro_vae.inference.chunks import ProgramStructure

__all__ = ["remedy"]

WITHOUT_GRADIENTS = "Draw more particles, or train a more flexible guide."  # latents are discrete
FEW_CHAINS = (
    "Estimate again with more steps, evaluation.AIS(num_steps=...), and see whether the result changes; or check by"
    f" sandwich(). With {pareto.MIN_PARTICLES} chains or more, k-hat can be computed."
)

# (question, name of the method) -> advice; a method that is not here has its own, `Method.remedy`
REMEDIES = {
    ("log p(x)", "importance"): "Use method='ais'; draw more particles, or train a more flexible guide.",
    ("log p(x)", "semi_amortized"): "Use method='ais'; draw more particles, or train a more flexible guide.",
    ("log p(x)", "ais"): "Take more steps, evaluation.AIS(num_steps=...), then more chains; check by sandwich().",
    # refining the guide for all cells makes it still narrower than the posterior of some of them
    ("conditional", "importance"): (
        "Use method='ais', which anneals to the posterior given x_B. More particles help little, and 'semi_amortized'"
        " makes it worse: the guide has seen x_A and is too narrow for p(x_B)."
    ),
    ("conditional", "semi_amortized"): (
        "Use method='ais', which anneals to the posterior given x_B: a guide that is refined for all of x is too narrow"
        " for p(x_B)."
    ),
    ("conditional", "ais"): (
        "Take more steps, evaluation.AIS(num_steps=...), or start at the prior, evaluation.AIS(start='prior')."
    ),
    # what is left of the error must be small for every model, since it does not cancel between models
    ("comparison", "importance"): "Compare by method='ais': errors differ between models, and do not cancel.",
    ("comparison", "semi_amortized"): "Compare by method='ais': errors differ between models, and do not cancel.",
    ("comparison", "ais"): (
        "Take more steps, evaluation.AIS(num_steps=...), for all models alike, and see whether differences change."
    ),
}


def remedy(question: str, method: Method, structure: ProgramStructure, num_particles: int | None = None) -> str:
    """What to do if estimates are unreliable.

    Args:
        question: "log p(x)", "conditional" or "comparison".
        method: the method that made the estimates.
        structure: the structure of the programs; methods that need gradients are not named where there are none.
        num_particles: K, if k-hat is unknown because it is small.
    """
    if num_particles is not None and num_particles < pareto.MIN_PARTICLES:
        few = f"Draw at least {pareto.MIN_PARTICLES} particles; 1,000 are the default."
        return FEW_CHAINS if method.name == "ais" else few
    if not structure.differentiable and method.name in ("importance", "semi_amortized"):
        return WITHOUT_GRADIENTS
    return REMEDIES.get((question, method.name), method.remedy)

"""The training methods, as the pages name them. A report knows nothing of a method but its name in the JSON files."""

__all__ = ["BASELINE", "OURS", "STEERED", "TRAINED_ON_ATTACKS", "method_title"]

BASELINE = "plain"
"""The method that all others are compared with."""

OURS = "clip"
"""The method that the headline is about."""

STEERED = ("clip", "clip+certified", "weight")
"""Methods whose runs have a target; so has every run of another method that has a λ."""

TRAINED_ON_ATTACKS = ("adversarial", "fgsm", "free", "one-step")
"""The methods whose figures in training are those on attacked inputs."""

_TITLES = {
    "clip": "CLIP",
    "plain": "plain training",
    "weight": "weight regularisation",
    "adversarial": "adversarial training",
    "certified": "certified training",
    "clip+certified": "CLIP with certified training",
    "scale-free": "scale-free CLIP",
    "jacobian": "Jacobian regularisation",
    "gradient-penalty": "the gradient penalty",
    "operator-norm": "operator-norm regularisation",
    "spectral": "projection of layers",
    "norm-decay": "norm decay",
    "alr": "adversarial Lipschitz regularisation",
    "deep-spline": "deep splines",
    "laplacian": "Laplacian smoothing",
    "fgsm": "FGSM training",
    "free": "free adversarial training",
    "one-step": "one-step training",
    "trades": "TRADES",
    "groupsort": "1-Lipschitz training",
    "lipschitz-margin": "margin training",
}


def method_title(name: str) -> str:
    """Name a configuration within a sentence: by its method's title, or in quotation marks if it is no method.

    Example:
        >>> method_title("plain"), method_title("without renewal")
        ('plain training', '“without renewal”')
    """
    return _TITLES.get(name, f"“{name}”")

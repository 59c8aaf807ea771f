"""Figures of a classifier with two classes that do not depend on its threshold: the ROC curve's area, a point on it."""

from sklearn.metrics import roc_auc_score, roc_curve
from torch import Tensor

__all__ = ["SPECIFICITY", "roc_figures"]

SPECIFICITY = 0.95
"""The fraction of class 0 that a threshold must keep, where the sensitivity is read off."""


def roc_figures(output: Tensor, y: Tensor) -> dict[str, float]:
    r"""Return the area under the ROC curve, and the largest sensitivity at a specificity of at least 95 %.

    An input is taken for class 1 if the lead of its logit, :math:`f_1(x) - f_0(x)`, reaches a threshold. The
    sensitivity is the fraction of class 1 that does, the specificity the fraction of class 0 that does not. The area is
    the probability that an input of class 1 has a larger lead than one of class 0, with ties counted as half.

    Args:
        output: logits (N, 2).
        y: classes (N,), 0 or 1.

    Returns:
        ``auc`` and ``sensitivity_at_95_specificity``, fractions in [0, 1]; nothing if a class does not occur, or a
        logit is not finite.
    """
    lead = (output[:, 1].double() - output[:, 0].double()).cpu()
    labels = y.cpu()
    if not bool(lead.isfinite().all()) or bool(labels.min() == labels.max()):
        return {}
    false_positives, sensitivity, _ = roc_curve(labels.numpy(), lead.numpy(), drop_intermediate=False)
    allowed = 1 - false_positives >= SPECIFICITY - 1e-12  # 1 − 0.05 may be rounded to a little less than 0.95
    return {
        "auc": float(roc_auc_score(labels.numpy(), lead.numpy())),
        "sensitivity_at_95_specificity": float(sensitivity[allowed].max()),
    }

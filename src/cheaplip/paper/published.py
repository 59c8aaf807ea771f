"""The numbers that the paper and its authors' public code publish, as fractions."""

__all__ = ["README_NUMBERS", "TABLE1_NUMBERS"]

_FIGURES = ("train", "test", "noise@1.0", "pgd-sign@2.0")

_TABLE1 = {
    "mnist": {
        "Standard": (95.6, 89.8, 71.8, 25.3, 0.0),
        "WeightReg 95": (93.1, 89.0, 71.4, 25.4, 0.0003),
        "WeightReg 90": (89.8, 89.7, 71.9, 24.8, 0.0015),
        "WeightReg 85": (84.8, 87.2, 72.3, 24.9, 0.0031),
        "CLIP 95": (95.3, 90.7, 70.3, 24.4, 0.01),
        "CLIP 90": (91.8, 91.6, 78.0, 36.2, 3.91),
        "CLIP 85": (87.6, 87.2, 74.5, 37.7, 9.82),
    },
    "fashion-mnist": {
        "Standard": (98.5, 92.0, 25.7, 1.9, 0.0),
        "WeightReg 95": (94.8, 91.2, 26.9, 3.5, 0.0011),
        "WeightReg 90": (89.8, 89.6, 28.1, 6.0, 0.0023),
        "WeightReg 85": (85.3, 85.4, 34.2, 10.2, 0.0091),
        "CLIP 95": (94.6, 91.9, 19.8, 9.1, 0.18),
        "CLIP 90": (90.6, 88.9, 23.3, 13.0, 0.74),
        "CLIP 85": (85.9, 83.1, 31.9, 14.9, 4.18),
    },
}

TABLE1_NUMBERS: dict[str, dict[str, dict[str, float]]] = {
    data: {
        row: {**{key: round(value / 100, 4) for key, value in zip(_FIGURES, values[:4], strict=True)}, "lam": values[4]}
        for row, values in rows.items()
    }
    for data, rows in _TABLE1.items()
}
"""Bungert et al. 2021, Table 1, by data set and row; ``lam`` is the final λ, or μ for weight regularisation."""

README_NUMBERS: dict[str, dict[str, float]] = {
    "none": {"test": 0.971, "noise@1.0": 0.345, "pgd-sign@2.0": 0.312},
    "CLIP95": {"test": 0.964, "noise@1.0": 0.298, "pgd-sign@2.0": 0.714},
    "CLIP97": {"test": 0.970, "noise@1.0": 0.346, "pgd-sign@2.0": 0.724},
}
"""The README of the authors' public code, by row: MNIST, network 784-200-80-10, mean of three runs."""

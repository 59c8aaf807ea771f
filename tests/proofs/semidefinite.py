"""LipSDP by an interior-point solver: the judge of bounds that multipliers prove."""

import math

import torch


def semidefinite_optimum(weights, slopes):
    """The best bound that one multiplier for each neuron proves, in the form of Fazlyab et al. 2019; needs cvxpy.

    Args:
        weights: W_1 … W_L, each (n_out, n_in) float64.
        slopes: for each hidden layer the lowest and the highest slope of its neurons, (n,) or scalars.
    """
    import cvxpy as cp

    hidden = [len(weight) for weight in weights[:-1]]
    n_in, n = weights[0].shape[1], sum(hidden)
    before = torch.zeros(n, n_in + n, dtype=torch.float64)  # z = before (x, h)
    row, column = 0, 0
    for weight in weights[:-1]:
        before[row : row + len(weight), column : column + weight.shape[1]] = weight
        row, column = row + len(weight), column + weight.shape[1]
    low, high = (
        torch.cat([torch.as_tensor(pair[end]).double().expand(size) for pair, size in zip(slopes, hidden, strict=True)])
        for end in (0, 1)
    )
    after = torch.cat([torch.zeros(n, n_in, dtype=torch.float64), torch.eye(n, dtype=torch.float64)], dim=1)
    output = torch.zeros(len(weights[-1]), n_in + n, dtype=torch.float64)
    output[:, column:] = weights[-1]
    t, square = cp.Variable(n, nonneg=True), cp.Variable()
    a, b = (after - low[:, None] * before).numpy(), (after - high[:, None] * before).numpy()
    inputs = torch.diag(torch.cat([torch.ones(n_in), torch.zeros(n)])).double().numpy()
    sector = a.T @ cp.diag(t) @ b
    matrix = square * inputs + sector + sector.T - (output.mT @ output).numpy()
    cp.Problem(cp.Minimize(square), [matrix >> 0]).solve(solver=cp.CLARABEL)
    return math.nan if square.value is None else math.sqrt(max(0.0, float(square.value)))

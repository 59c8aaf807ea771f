"""An upper bound of Lip(f) to train with: differentiable in the weights and in its own multipliers."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cheaplip.bracket import lipsdp
from cheaplip.bracket.chain import read
from cheaplip.bracket.elimination import Elimination, Step, top_eigenvalue

__all__ = ["LipschitzBound"]


class LipschitzBound(nn.Module):
    r"""The LipSDP bound of a model, 2 → 2, whose multipliers log T are parameters.

    Each call eliminates the layers once, in float64, and returns the certified bound; its gradient is that of the
    largest eigenvalue, from the one worst increment (z, h) of each layer (envelope theorem), so that the backward pass
    costs a few products of matrices and vectors:

    .. math:: λ = \|W_L h_{L-1}\|^2 - 2 \sum_l (h_l - αz_l)^⊤ T_l (h_l - βz_l), \quad z_l = W_l h_{l-1}.

    The model is neither wrapped nor owned: its parameters and its state stay its own. Give the multipliers a group of
    their own in the optimiser, at a larger rate. Where they are no longer feasible, because the weights have moved too
    far, they start again from the closed form.

    Args:
        model: of affine maps and elementwise activations; it is read anew, at its present weights, in every call.
        shape: of one input. None: that of the model's first linear layer.

    Attributes:
        restarts: how often the multipliers started again.

    Raises:
        UnsupportedLayerError: a layer is neither affine nor elementwise; it is named.
        TypeError: the model is not a module.
        ValueError: the shape is not given and there is no linear layer to take it from.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
        >>> bound = LipschitzBound(model)
        >>> groups = [{"params": model.parameters(), "lr": 1e-3}, {"params": bound.parameters(), "lr": 1e-2}]
        >>> optimizer = torch.optim.Adam(groups)
        >>> x, y = torch.rand(32, 8), torch.randint(3, (32,))
        >>> for _ in range(3):
        ...     margins = model(x) / bound()  # 1-Lipschitz, whatever the weights
        ...     loss = torch.nn.functional.multi_margin_loss(margins, y, margin=0.5)
        ...     optimizer.zero_grad()
        ...     loss.backward()
        ...     optimizer.step()
    """

    def __init__(self, model: nn.Module, shape: tuple[int, ...] | None = None) -> None:
        super().__init__()
        if not isinstance(model, nn.Module):
            raise TypeError(f"model: expected a module, got {type(model).__name__}: a plain function cannot be read")
        self._chain = read(model, _first_shape(model) if shape is None else shape)
        with torch.no_grad():
            problem = Elimination.of(*self._chain.dense(), scaled=False)
        guess = problem.ordered(lipsdp.first_guess(problem))
        self.log_multipliers = nn.ParameterList([nn.Parameter(t.log().to(self._chain.device)) for t in guess])
        self.restarts = 0

    def forward(self) -> Tensor:
        """The bound: a float64 scalar on the model's device; inf, without gradient, where nothing could be proved."""
        weights, slopes = self._chain.dense()
        problem = Elimination.of(weights, slopes, scaled=False)
        steps = self._eliminated(problem)
        gram = steps[-1].gram if steps else problem.gram
        value = math.sqrt(top_eigenvalue(gram)) if len(steps) == len(problem.layers) else math.inf
        if not 0 < value < math.inf:
            return weights[-1].new_tensor(value)
        worst = _worst_increments(problem, steps, torch.linalg.eigh(gram)[1][:, -1:])
        smooth = self._lagrangian(problem, weights, slopes, worst).sqrt()
        return smooth + (value - smooth).detach()

    @torch.no_grad()
    def tighten_(self, seconds: float = 10.0) -> float:
        """Set the multipliers to the best for the present weights; returns the bound."""
        problem = Elimination.of(*self._chain.dense(), scaled=False)
        self._set(problem, lipsdp.solve(problem, self._ordered(problem), 1e-4, seconds))
        return float(self())

    def _ordered(self, problem: Elimination) -> list[Tensor]:
        return problem.ordered([log.detach().cpu().double().exp() for log in self.log_multipliers])

    @torch.no_grad()
    def _set(self, problem: Elimination, multipliers: Sequence[Tensor]) -> None:
        for log, t in zip(self.log_multipliers, problem.ordered(multipliers), strict=True):
            log.copy_(t.log())

    def _eliminated(self, problem: Elimination) -> list[Step]:
        steps = problem.run(self._ordered(problem), rigorous=True)
        if len(steps) < len(problem.layers):
            self.restarts += 1
            self._set(problem, lipsdp.first_guess(problem))
            steps = problem.run(self._ordered(problem), rigorous=True)
        return steps

    def _lagrangian(
        self,
        problem: Elimination,
        weights: Sequence[Tensor],
        slopes: lipsdp.Slopes,
        worst: Sequence[Tensor],
    ) -> Tensor:
        """λ as a function of weights and multipliers at fixed increments, the last eliminated layer's input first."""
        matrices = [weight.mT for weight in reversed(weights)] if problem.forward else list(weights)
        ranges = list(reversed(slopes)) if problem.forward else list(slopes)
        logs = list(reversed(list(self.log_multipliers))) if problem.forward else list(self.log_multipliers)
        inputs = [h.to(weights[0]) for h in worst]
        value = (matrices[-1] @ inputs[-1]).square().sum()
        for matrix, (low, high), log, before, h in zip(matrices, ranges, logs, inputs, inputs[1:], strict=False):
            z = matrix @ before
            value = value - 2 * (log.exp() * (h - low * z) * (h - high * z)).sum()
        return value


def _worst_increments(problem: Elimination, steps: Sequence[Step], top: Tensor) -> list[Tensor]:
    """The increments (n,) of the network's values at which the bound is attained, starting where elimination ends."""
    increments = [problem.lifted(top)]
    for step in reversed(steps):
        top = step.respond(top)
        increments.append(top)
    return [h.squeeze(1) for h in increments]


def _first_shape(model: nn.Module) -> tuple[int, ...]:
    for module in model.modules():
        if isinstance(module, nn.Linear):
            return (module.in_features,)
        if not list(module.children()) and list(module.parameters()):
            break
    raise ValueError(
        "shape: expected the shape of one input, as the model does not start with a linear layer: "
        "LipschitzBound(model, shape=(1, 28, 28)), for example"
    )

"""Laplacian smoothing: squared differences of the outputs along the edges of a graph of the training inputs."""

from dataclasses import dataclass

import torch
from sklearn.neighbors import NearestNeighbors
from torch import Tensor, nn

from cheaplip.errors import ConfigError
from cheaplip.quotient import quotient
from cheaplip.training.methods.method import Setting
from cheaplip.training.methods.penalised import LamOptions, Penalised
from cheaplip.training.methods.penalties.input_gradients import each_alone, treats_inputs_alone
from cheaplip.training.options import check_whole

__all__ = ["Laplacian", "LaplacianOptions", "nearest_neighbours"]

_AMONG = 10_000  # inputs that are searched for neighbours: of all of MNIST, that would take minutes


@dataclass(frozen=True, kw_only=True)
class LaplacianOptions(LamOptions):
    """The options of Laplacian smoothing."""

    neighbours: int = 5
    """laplacian: nearest of up to 10,000 training inputs that each training input is connected with"""

    def check(self) -> None:
        """Raise a :class:`ConfigError` if the number of neighbours is out of its range."""
        check_whole("neighbours", self.neighbours, 1)


class Laplacian(Penalised):
    r"""Minimise the loss plus λ times the Laplacian energy of f on a graph of the training inputs, with λ steered.

    The energy is the mean of w_ij·‖f(x_i) − f(x_j)‖² over the edges, with w_ij = 1 / ‖x_i − x_j‖², so that it is a mean
    of squared difference quotients. Each step takes one edge of each input in the batch.

    Reference:
        Krishnan et al. 2020, "Lipschitz bounds and provably robust training by Laplacian smoothing", where each edge
        has a multiplier of its own in place of λ·w_ij.
    """

    name = "laplacian"
    adds = "the loss + λ times the mean squared quotient along a graph of the training inputs"
    cost = "2, and the graph once"
    source = "after Krishnan et al. 2020"
    group = "penalties on difference quotients"
    options = LaplacianOptions
    distributed = False
    usual_lam = 0.1

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self.inputs, self.noise = setting.data.train.x, setting.noise
        self.graph = nearest_neighbours(self.inputs, setting.options_of(LaplacianOptions).neighbours, self.noise)
        self.shares = treats_inputs_alone(setting.network)
        self.rows: Tensor | None = None

    def before_step(self, step: int, rows: Tensor) -> None:
        del step
        self.rows = rows

    def output_and_term(self, network: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
        assert self.rows is not None
        chosen = torch.randint(self.graph.shape[1], (len(x),), generator=self.noise, device=x.device)
        neighbours = self.inputs[self.graph[self.rows, chosen]]
        with each_alone(network, self.shares):
            here, there = network(torch.cat([x, neighbours])).chunk(2)
        return here if self.shares else network(x), quotient(here, there, x, neighbours).square().mean()


def nearest_neighbours(x: Tensor, count: int, generator: torch.Generator, *, among: int = _AMONG) -> Tensor:
    r"""Return the rows of the nearest other inputs, by Euclidean distance, nearest first.

    Args:
        x: inputs, (N, \*input).
        count: how many for each, at least 1.
        generator: draws the inputs that are searched; on the inputs' device.
        among: how many inputs are searched; where there are more, they are drawn at random.

    Returns:
        (N, count), int64, on the inputs' device.

    Raises:
        ConfigError: there are not so many other inputs.
    """
    searched = torch.randperm(len(x), generator=generator, device=x.device)[:among].sort().values
    if count >= len(searched):
        raise ConfigError(f"neighbours: expected fewer than the {len(searched)} training inputs, got {count}")
    points = x.flatten(1).cpu().numpy()
    search = NearestNeighbors(n_neighbors=count + 1).fit(points[searched.cpu().numpy()])
    found = searched[torch.from_numpy(search.kneighbors(points, return_distance=False)).to(x.device)]
    itself = found == torch.arange(len(x), device=x.device).unsqueeze(1)
    return found.gather(1, itself.sort(dim=1, stable=True).indices)[:, :count]

"""Plain training: the loss alone."""

from torch import Tensor, nn

from cheaplip.training.methods.method import Losses, Method

__all__ = ["Plain"]


class Plain(Method):
    """Minimise the loss alone; every other method is compared with this one."""

    name = "plain"
    adds = "the loss"
    cost = "1"
    group = "baseline"

    def losses(self, network: nn.Module, x: Tensor, y: Tensor) -> Losses:
        output = network(x)
        fit = self.loss(output, y)
        return Losses(fit, fit, output)

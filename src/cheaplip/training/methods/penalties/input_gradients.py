"""Gradients of a network with respect to its inputs, which have gradients with respect to the weights themselves."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from cheaplip.errors import BatchDependentLayerError, ConfigError
from cheaplip.model import call_on_copy
from cheaplip.modes import evaluation_mode, has_dropout, refuse_batch_dependent_layers
from cheaplip.training.methods.method import Setting
from cheaplip.training.methods.penalised import Penalised

__all__ = [
    "GradientPenalised",
    "check_differentiable",
    "each_alone",
    "outputs_at",
    "outputs_in_evaluation",
    "pulled_back",
    "treats_inputs_alone",
]


class GradientPenalised(Penalised):
    """A penalty on derivatives of the network at its inputs.

    :meth:`passes` lets the term share the pass of the loss. Where layers mix the inputs of a batch or drop values, the
    term has a pass of its own, in evaluation mode.
    """

    group = "penalties on gradients"
    distributed = False  # of its gradients, DistributedDataParallel sees those of one pass alone

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self.noise = setting.noise
        check_differentiable(setting, self.name, twice=True)
        self.shares = treats_inputs_alone(setting.network)

    def passes(self, network: nn.Module, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the outputs for the loss, and inputs that record a gradient with the outputs there."""
        if self.shares:
            at, measured = outputs_at(network, x)
            return measured, at, measured
        at, measured = outputs_in_evaluation(network, x)
        return network(x), at, measured


def outputs_at(network: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    r"""Return the inputs (B, \*input) as a tensor that records a gradient, and the network's outputs there."""
    at = x.detach().requires_grad_()
    return at, call_on_copy(network, at)


def outputs_in_evaluation(network: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Compute :func:`outputs_at` in evaluation mode, so that an output depends on its own input alone."""
    with evaluation_mode(network):
        return outputs_at(network, x)


def each_alone(network: nn.Module, shares: bool) -> AbstractContextManager[None]:
    """Return a context in which an output depends on its own input alone: evaluation mode, unless it does anyway."""
    return nullcontext() if shares else evaluation_mode(network)


def pulled_back(output: Tensor, at: Tensor, directions: Tensor) -> Tensor:
    r"""Return J(x)ᵀv for each input x and its direction v, with a gradient with respect to the weights.

    Args:
        output: f(x), (B, outputs); a row depends on its own input alone.
        at: the inputs x, (B, \*input), from :func:`outputs_at`.
        directions: v, (B, outputs).

    Returns:
        (B, \*input).
    """
    (gradient,) = torch.autograd.grad(output, at, directions, create_graph=True)
    return gradient


def check_differentiable(setting: Setting, method: str, *, twice: bool) -> None:
    """Raise a :class:`ConfigError` unless autograd can differentiate the network by its inputs.

    Args:
        setting: the run.
        method: the name of the method, for the message.
        twice: whether these gradients must have gradients with respect to the weights.
    """
    weights = list(setting.network.parameters())
    before = [weight.grad for weight in weights]
    try:
        at, output = outputs_in_evaluation(setting.network, setting.data.train.x[:2])
        (gradient,) = torch.autograd.grad(output.sum(), at, create_graph=twice, allow_unused=True)
        reason = "its output does not depend differentiably on its input" if gradient is None else ""
        if twice and gradient is not None:
            # not grad(), which never meets what it cannot differentiate
            gradient.square().sum().backward()  # type: ignore[no-untyped-call]
    except (RuntimeError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0]
    finally:
        for weight, own in zip(weights, before, strict=True):
            weight.grad = own
    if reason:
        raise ConfigError(
            f"method: {method} needs a model that autograd can differentiate {'twice' if twice else 'by its inputs'}, "
            f"got one that it cannot ({reason}): use a method without gradients at the inputs, such as weight"
        )


def treats_inputs_alone(network: nn.Module) -> bool:
    """Return whether an output depends on its own input and the weights alone, as far as types of layers tell."""
    try:
        refuse_batch_dependent_layers(network)
    except BatchDependentLayerError:
        return False
    return not has_dropout(network)

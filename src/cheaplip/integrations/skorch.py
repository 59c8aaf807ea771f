"""scikit-learn estimators whose networks are trained with CLIP, by way of skorch."""

from typing import Any

import torch
from torch import Tensor, nn

from cheaplip.clip import Aggregate
from cheaplip.discrepancy import MetricMode
from cheaplip.domain import Box
from cheaplip.integrations.lazy import LazyCLIP
from cheaplip.pairs import Climb

try:
    from skorch import NeuralNet, NeuralNetClassifier, NeuralNetRegressor
    from skorch.dataset import unpack_data
    from skorch.utils import to_tensor
except ModuleNotFoundError as error:
    raise ImportError("cheaplip.integrations.skorch needs skorch: pip install 'cheaplip[skorch]'") from error

__all__ = ["CLIPClassifier", "CLIPRegressor"]


class _CLIPNet(NeuralNet):
    """Adds the penalty to the training loss; after each batch, λ moves by a metric of its output and labels."""

    _mode: MetricMode
    _criterion: type[nn.Module]

    def __init__(
        self,
        module: Any,
        *args: Any,
        lam: float = 0.1,
        target: float | None = None,
        rate: float = 0.01,
        smoothing: float = 0.99,
        domain: tuple[Any, Any] | None = None,
        size: int = 32,
        step: Climb = "power",
        aggregate: Aggregate = "softmax",
        every: int = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(module, *args, **{"criterion": self._criterion, **kwargs})
        self.lam = lam
        self.target = target
        self.rate = rate
        self.smoothing = smoothing
        self.domain = _checked(domain)
        self.size = size
        self.step = step
        self.aggregate = aggregate
        self.every = every

    def initialize_module(self) -> "_CLIPNet":
        super().initialize_module()
        self.clip_ = LazyCLIP(
            lam=self.lam,
            target=self.target,
            mode=self._mode,
            rate=self.rate,
            smoothing=self.smoothing,
            domain=None if self.domain is None else Box(*self.domain),
            size=self.size,
            step=self.step,
            aggregate=self.aggregate,
            every=self.every,
        )
        return self

    def get_loss(self, y_pred: Tensor, y_true: Tensor, X: Any = None, training: bool = False) -> Tensor:
        loss: Tensor = super().get_loss(y_pred, y_true, X, training=training)
        return loss + self.clip_(self.module_, self._inputs(X)) if training else loss

    def on_batch_end(self, net: NeuralNet, batch: Any = None, training: bool = False, **kwargs: Any) -> None:
        super().on_batch_end(net, batch=batch, training=training, **kwargs)
        if not training:
            return
        if not self.clip_.built:
            raise RuntimeError(
                f"a training step that did not pass {type(self).__name__}'s get_loss, so the penalty did nothing: call "
                "super().get_loss in yours"
            )
        if self.target is not None:
            x, y = unpack_data(batch)
            with torch.no_grad():
                self.clip_.observe(self._metric(kwargs["y_pred"], to_tensor(y, self.device), x))

    def _inputs(self, X: Any) -> Tensor:
        x = to_tensor(X, device=self.device)
        if not isinstance(x, Tensor):
            raise TypeError(f"X: expected one array, got {type(X).__name__}: CLIP needs a module with one input")
        return x

    def _metric(self, y_pred: Any, y: Tensor, x: Any) -> Tensor:
        raise NotImplementedError


class CLIPClassifier(_CLIPNet, NeuralNetClassifier):
    """skorch's ``NeuralNetClassifier``, trained with CLIP; the module's outputs are logits (B, classes).

    A scikit-learn estimator like its base class: it works in ``Pipeline``, ``cross_val_score`` and ``GridSearchCV``
    (over ``lam`` or ``target``, too), and it can be pickled. After ``fit``, ``clip_`` is the penalty, and
    ``clip_.clip.largest`` the largest quotient.

    Args:
        module, *args, **kwargs: skorch's; the default criterion is cross-entropy.
        lam, target, rate, smoothing, size, step, aggregate, every: as in
            :class:`cheaplip.integrations.lazy.LazyCLIP`. The target is for the accuracy on training batches;
            ``lam=0`` without a target trains without CLIP.
        domain: (low, high) of the :class:`Box` inputs live in, numbers or arrays (skorch keeps no modules among its
            parameters). None: all of space.

    Raises:
        TypeError: ``domain`` is a :class:`Box`.
        ValueError: at ``fit``: an option is out of range, or λ cannot move from where it starts.
        RuntimeError: at ``fit``: the penalty would do nothing.

    Example:
        >>> import numpy
        >>> x = numpy.random.default_rng(0).random((64, 2), dtype="float32")
        >>> y = (x[:, 0] > x[:, 1]).astype("int64")
        >>> net = CLIPClassifier(nn.Linear(2, 2), lam=0.1, target=0.9, max_epochs=2, train_split=None, verbose=0)
        >>> net.fit(x, y).predict(x).shape
        (64,)
    """

    _mode = "max"
    _criterion = nn.CrossEntropyLoss

    def _metric(self, y_pred: Any, y: Tensor, x: Any) -> Tensor:
        output = y_pred[0] if isinstance(y_pred, tuple) else y_pred
        accuracy: Tensor = (output.argmax(dim=1) == y).float().mean()
        return accuracy


class CLIPRegressor(_CLIPNet, NeuralNetRegressor):
    """skorch's ``NeuralNetRegressor``, trained with CLIP.

    Args:
        module, *args, **kwargs: skorch's.
        lam, target, rate, smoothing, size, step, aggregate, every: as in
            :class:`cheaplip.integrations.lazy.LazyCLIP`. The target is for the criterion's value on training batches,
            and it is met from below (Morozov's principle).
        domain: as in :class:`CLIPClassifier`.

    Raises:
        ValueError: at ``fit``: an option is out of range, or λ cannot move from where it starts.
        RuntimeError: at ``fit``: the penalty would do nothing.

    Example:
        >>> import numpy
        >>> x = numpy.random.default_rng(0).random((64, 2), dtype="float32")
        >>> net = CLIPRegressor(nn.Linear(2, 1), lam=0.1, max_epochs=2, train_split=None, verbose=0)
        >>> net.fit(x, x.sum(1, keepdims=True)).predict(x).shape
        (64, 1)
    """

    _mode = "min"
    _criterion = nn.MSELoss

    def _metric(self, y_pred: Any, y: Tensor, x: Any) -> Tensor:
        loss: Tensor = super().get_loss(y_pred, y, x, training=False)
        return loss


def _checked(domain: tuple[Any, Any] | None) -> tuple[Any, Any] | None:
    if isinstance(domain, Box):
        raise TypeError("domain: expected (low, high), got a Box: skorch keeps no modules among its parameters")
    return domain

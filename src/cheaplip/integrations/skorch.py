"""scikit-learn estimators whose networks are trained with CLIP, by way of skorch.

The file is long because a classifier and a regressor share it with what they have in common.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cheaplip.clip import Aggregate
from cheaplip.discrepancy import MetricMode
from cheaplip.domain import Box
from cheaplip.integrations.lazy import LazyCLIP
from cheaplip.integrations.metrics import count_right, count_right_of_threshold, share
from cheaplip.pairs import Climb

try:
    from skorch import NeuralNet, NeuralNetClassifier, NeuralNetRegressor
    from skorch.dataset import unpack_data
    from skorch.utils import is_dataset, to_numpy, to_tensor

    from cheaplip.integrations.perceptron import DEFAULTS, Perceptron, as_features
except ModuleNotFoundError as error:
    raise ImportError("cheaplip.integrations.skorch needs skorch: pip install 'cheaplip[skorch]'") from error

__all__ = ["CLIPClassifier", "CLIPRegressor"]

Metric = Callable[[Tensor, Tensor], float | Tensor]
"""From a module's outputs and the labels of a batch to a number."""

_OPTIONS = {"lam", "target", "rate", "smoothing", "domain", "size", "step", "aggregate", "every"}
_BINARY = {  # criterion: what an output must be above to mean yes, and a label
    nn.BCEWithLogitsLoss: (0.0, 0.5),
    nn.BCELoss: (0.5, 0.5),
    nn.MultiLabelSoftMarginLoss: (0.0, 0.5),
    nn.SoftMarginLoss: (0.0, 0.0),
}


class _CLIPNet(NeuralNet):
    """Adds the penalty to the training loss; after each batch, λ moves by a metric of its output and labels."""

    _mode: MetricMode
    _criterion: type[nn.Module]

    def __init__(
        self,
        module: Any = None,
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
        metric: Metric | None = None,
        **kwargs: Any,
    ) -> None:
        defaults = {"criterion": self._criterion, **(DEFAULTS if module is None else {})}
        super().__init__(module, *args, **{**defaults, **kwargs})
        self.lam = lam
        self.target = target
        self.rate = rate
        self.smoothing = smoothing
        self.domain = _checked(domain)
        self.size = size
        self.step = step
        self.aggregate = aggregate
        self.every = every
        self.metric = metric

    def fit(self, X: Any, y: Any = None, **fit_params: Any) -> "_CLIPNet":
        """Train the module from its start; see skorch's ``NeuralNet.fit``."""
        if not self.warm_start or not self.initialized_:
            self._learn_data(X, y)
        super().fit(X, y, **fit_params)
        return self

    def partial_fit(self, X: Any, y: Any = None, classes: Any = None, **fit_params: Any) -> "_CLIPNet":
        """Go on training the module; see skorch's ``NeuralNet.partial_fit``."""
        if not self.initialized_:
            self._learn_data(X, y if classes is None else classes, whole=classes is None)
        super().partial_fit(X, y, classes, **fit_params)
        return self

    def set_params(self, **params: Any) -> "_CLIPNet":
        """Set options, in mid-training, too: ``lam`` and ``target`` apply from the next batch on."""
        before = {name: getattr(self, name) for name in _OPTIONS & params.keys()}
        if "domain" in params:
            _checked(params["domain"])
        super().set_params(**params)
        changed = {name: getattr(self, name) for name, value in before.items() if getattr(self, name) is not value}
        if changed and self.initialized_:
            if changed.get("domain") is not None:
                changed["domain"] = Box(*changed["domain"])
            self.clip_.change_(**changed)
        return self

    def initialize_module(self) -> "_CLIPNet":
        if self.module is not None:
            super().initialize_module()
        elif not hasattr(self, "_sizes"):
            raise RuntimeError(
                "module: expected one, for without data the sizes of a perceptron are not known: call fit"
            )
        else:
            self.module_ = Perceptron(*self._sizes, **self.get_params_for("module")).to(self.device)
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

    def infer(self, x: Any, **fit_params: Any) -> Any:
        if isinstance(x, Tensor) and self.module_.training and self.clip_.due:
            x = x.clone()  # the module may write into it, and the pairs start at the batch's inputs
        return super().infer(x, **fit_params)

    def check_data(self, X: Any, y: Any) -> None:
        super().check_data(X, np.asarray(y) if isinstance(y, list | tuple) else y)
        _refuse_sparse(X)

    def get_dataset(self, X: Any, y: Any = None) -> Any:
        if is_dataset(X):
            return super().get_dataset(X, y)
        _refuse_sparse(X)
        features = X
        if self.module is None:
            features = as_features(X, self._sizes[0] if hasattr(self, "_sizes") else None)
        return super().get_dataset(features, None if y is None else self._encoded(y))

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
                output = kwargs["y_pred"][0] if isinstance(kwargs["y_pred"], tuple) else kwargs["y_pred"]
                y = to_tensor(y, self.device)
                self.clip_.observe(
                    self._metric(kwargs["y_pred"], y, x) if self.metric is None else self.metric(output, y)
                )

    def _inputs(self, X: Any) -> Tensor:
        x = to_tensor(X, device=self.device)
        if not isinstance(x, Tensor):
            raise TypeError(f"X: expected one array, got {type(X).__name__}: CLIP needs a module with one input")
        return x

    def _learn_data(self, X: Any, y: Any, *, whole: bool = True) -> None:
        """Learn from the training data what labels are to be encoded as, and the sizes of a perceptron."""
        if is_dataset(X) or y is None:
            if self.module is None:
                raise TypeError(
                    f"X: expected arrays X and y, from which the sizes of a perceptron are known, got "
                    f"{type(X).__name__}: pass a module with a Dataset"
                )
            return
        self.check_data(X, y if whole else np.asarray(y))
        self._learn_labels(y)
        if self.module is None:
            self.n_features_in_ = as_features(X)[0].size
            self._sizes = (self.n_features_in_, self._outputs(y))

    def _learn_labels(self, y: Any) -> None:
        raise NotImplementedError

    def _outputs(self, y: Any) -> int:
        raise NotImplementedError

    def _encoded(self, y: Any) -> Any:
        raise NotImplementedError

    def _metric(self, y_pred: Any, y: Tensor, x: Any) -> Tensor:
        raise NotImplementedError


class CLIPClassifier(_CLIPNet, NeuralNetClassifier):
    """skorch's ``NeuralNetClassifier``, trained with CLIP; without a module, a perceptron as ``MLPClassifier``.

    A scikit-learn estimator like its base class: it works in ``Pipeline``, ``cross_val_score`` and ``GridSearchCV``
    (over ``lam`` or ``target``, too), and it can be pickled. After ``fit``, ``clip_`` is the penalty, and
    ``clip_.clip.largest`` the largest quotient.

    The outputs are logits (B, classes), or with ``criterion=nn.BCEWithLogitsLoss`` a logit for each yes-or-no label.
    Labels may be of any kind: integers from 0 are the numbers of classes, and others, such as strings or -1 and 1, are
    numbered in their order; ``predict`` returns labels as they were given.

    Args:
        module, *args, **kwargs: skorch's; the default criterion is cross-entropy. With no module, a perceptron with one
            hidden layer of 100 neurons is trained with Adam for 100 epochs; ``module__hidden_layer_sizes=(200, 80)``
            changes the layers.
        lam, target, rate, smoothing, size, step, aggregate, every: as in
            :class:`cheaplip.integrations.lazy.LazyCLIP`. The target is for the accuracy on training batches;
            ``lam=0`` without a target trains without CLIP.
        domain: (low, high) of the :class:`Box` inputs live in, numbers or arrays (skorch keeps no modules among its
            parameters). None: all of space.
        metric: what the target is for instead of the accuracy: a function of the outputs and labels of a batch to a
            fraction in [0, 1].

    Raises:
        TypeError: ``domain`` is a :class:`Box`; at ``fit`` and ``predict``: inputs are sparse.
        ValueError: at ``fit``: an option is out of range, λ cannot move from where it starts, or no accuracy is known
            for such outputs and labels.
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

    def predict(self, X: Any) -> np.ndarray:
        """Predict a label for each input, or with several yes-or-no outputs 0 or 1 for each."""
        numbers: np.ndarray = super().predict(X)
        labels = None if is_dataset(X) else getattr(self, "_labels", None)  # callbacks compare numbers of classes
        if labels is None:
            return numbers
        found: np.ndarray = labels[numbers.reshape(len(numbers), -1)[:, 0] if self._binary else numbers]
        return found

    @property
    def _binary(self) -> bool:
        return isinstance(self.criterion, type) and issubclass(self.criterion, tuple(_BINARY))

    def _learn_labels(self, y: Any) -> None:
        """Keep the labels in order, where they are to be numbered."""
        y = np.asarray(to_numpy(y) if isinstance(y, Tensor) else y)
        if y.ndim == 2 and y.shape[1] == 1 and y.dtype.kind not in "f":
            y = y[:, 0]
        whole = y.dtype.kind in "iu" and (y.size == 0 or y.min() >= 0)
        number = y.ndim == 1 and (self.module is None or (y.dtype.kind in "fbUSO" and not self._binary) or not whole)
        if number and self.module is not None and self._binary and y.dtype.kind in "fb":
            number = False  # they are what the criterion takes
        self._labels: np.ndarray | None = np.unique(y) if number else None
        if self._labels is not None and self._binary and len(self._labels) > 2:
            raise ValueError(f"y: expected two classes for {self.criterion.__name__}, got {len(self._labels)}")

    def _outputs(self, y: Any) -> int:
        shape = np.shape(to_numpy(y) if isinstance(y, Tensor) else y)
        if len(shape) == 1 or shape[1:] == (1,):
            return 1 if self._binary else (len(self._labels) if self._labels is not None else 2)
        if not self._binary:
            raise ValueError(
                f"y: expected one label for each input, got shape {shape}: for several yes-or-no labels an input say "
                "criterion=torch.nn.BCEWithLogitsLoss"
            )
        return int(shape[1])

    def _encoded(self, y: Any) -> Any:
        labels = getattr(self, "_labels", None)
        y = np.asarray(y) if isinstance(y, list | tuple) else y
        if labels is None:
            if isinstance(y, np.ndarray) and self._binary and y.dtype.kind in "biu":
                return y.astype(np.float32)
            if isinstance(y, np.ndarray) and not self._binary and y.dtype.kind in "iu":
                return y.astype(np.int64)
            return y
        y = np.asarray(to_numpy(y) if isinstance(y, Tensor) else y)
        y = y[:, 0] if y.ndim == 2 else y
        numbers = np.minimum(np.searchsorted(labels, y), len(labels) - 1)
        if not np.array_equal(labels[numbers], y):
            unknown = sorted(set(np.unique(y).tolist()) - set(labels.tolist()))
            raise ValueError(f"y: expected labels among {labels.tolist()}, as in training, got {unknown}")
        return numbers.astype(np.float32)[:, None] if self._binary else numbers

    def _metric(self, y_pred: Any, y: Tensor, x: Any) -> Tensor:
        output = y_pred[0] if isinstance(y_pred, tuple) else y_pred
        for kind, (threshold, middle) in _BINARY.items():
            if isinstance(self.criterion_, kind):
                return share(count_right_of_threshold(output, y, threshold=threshold, middle=middle))
        soft = isinstance(self.criterion_, nn.CrossEntropyLoss)
        return share(count_right(output, y, soft=soft, ignored=getattr(self.criterion_, "ignore_index", -100)))


class CLIPRegressor(_CLIPNet, NeuralNetRegressor):
    """skorch's ``NeuralNetRegressor``, trained with CLIP; without a module, a perceptron as ``MLPRegressor``.

    Without a module, each column of the labels is standardised for training, so that outputs in unlike units count
    alike; ``predict`` returns the labels' units. The target and the quotients are then in standard deviations of the
    labels: a target of 0.1 leaves a tenth of their variance.

    Args:
        module, *args, **kwargs: skorch's. With no module, a perceptron as in :class:`CLIPClassifier`.
        lam, target, rate, smoothing, size, step, aggregate, every: as in
            :class:`cheaplip.integrations.lazy.LazyCLIP`. The target is for the criterion's value on training batches,
            and it is met from below (Morozov's principle).
        domain: as in :class:`CLIPClassifier`.
        metric: what the target is for instead of the criterion: a function of the outputs and labels of a batch to a
            positive number, which is better the smaller it is.

    Raises:
        TypeError: as in :class:`CLIPClassifier`.
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

    def check_data(self, X: Any, y: Any) -> None:
        super().check_data(X, y if self.module is not None or y is None else _columns(y))

    def predict(self, X: Any) -> np.ndarray:
        """Predict a number, or several, for each input, in the labels' units."""
        predictions: np.ndarray = super().predict(X)
        if self.module is not None or is_dataset(X):  # callbacks compare standardised labels
            return predictions
        found: np.ndarray = predictions * self._deviations + self._means
        return found[:, 0] if self._flat else found

    def _learn_labels(self, y: Any) -> None:
        if self.module is None:
            columns = _columns(y)
            self._flat = np.ndim(y) == 1
            self._means = columns.mean(axis=0)
            deviations = columns.std(axis=0)
            self._deviations = np.where(deviations > 0, deviations, 1.0)

    def _outputs(self, y: Any) -> int:
        return int(_columns(y).shape[1])

    def _encoded(self, y: Any) -> Any:
        if self.module is not None:
            return y
        return ((_columns(y) - self._means) / self._deviations).astype(np.float32)

    def _metric(self, y_pred: Any, y: Tensor, x: Any) -> Tensor:
        loss: Tensor = super().get_loss(y_pred, y, x, training=False)
        return loss


def _refuse_sparse(X: Any) -> None:
    if hasattr(X, "toarray") or (isinstance(X, Tensor) and X.layout != torch.strided):
        remedy = "X.to_dense()" if isinstance(X, Tensor) else "X.toarray()"
        raise TypeError(f"X: expected a dense array, got a sparse {type(X).__name__}: pass {remedy}")


def _columns(y: Any) -> np.ndarray:
    """Return labels as columns of float64, (N, k)."""
    columns = np.asarray(to_numpy(y) if isinstance(y, Tensor) else y, dtype=np.float64)
    return columns.reshape(len(columns), -1)


def _checked(domain: tuple[Any, Any] | None) -> tuple[Any, Any] | None:
    if isinstance(domain, Box):
        raise TypeError("domain: expected (low, high), got a Box: skorch keeps no modules among its parameters")
    return domain

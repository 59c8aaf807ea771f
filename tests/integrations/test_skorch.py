"""The scikit-learn estimators: their effect, their place in scikit-learn's tools, and what they refuse."""

import pickle
import re

import numpy as np
import pytest
import torch
from torch import nn

from cheaplip import Box
from cheaplip.lipschitz import largest_quotient

pytest.importorskip("skorch", reason="needs the extra skorch")
pytest.importorskip("sklearn", reason="needs the extra skorch")

from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler
from sklearn.utils.estimator_checks import check_estimator
from skorch import NeuralNetClassifier, NeuralNetRegressor
from skorch.callbacks import Callback, GradientNormClipping, LoadInitState, TrainEndCheckpoint

from cheaplip.integrations.skorch import CLIPClassifier, CLIPRegressor

X = np.random.default_rng(0).random((128, 4), dtype=np.float32)
Y = (X.sum(1) > 2).astype(np.int64)
Z = np.sin(3 * X.sum(1, keepdims=True)).astype(np.float32)


class Net(nn.Module):
    def __init__(self, outputs: int = 2, width: int = 16) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, outputs))

    def forward(self, x):
        return self.layers(x)


OPTIONS = {"lr": 0.5, "max_epochs": 4, "batch_size": 16, "train_split": None, "verbose": 0}


def classifier(**options):
    torch.manual_seed(0)
    domain = {"domain": (0.0, 1.0), "size": 8}
    return CLIPClassifier(Net, **{**OPTIONS, **domain, **options})


def regressor(**options):
    torch.manual_seed(0)
    domain = {"domain": (0.0, 1.0), "size": 8, "module__outputs": 1}
    return CLIPRegressor(Net, **{**OPTIONS, "lr": 0.2, **domain, **options})


def constant(net):
    return largest_quotient(net.module_, torch.from_numpy(X), domain=Box(0.0, 1.0), size=32, steps=20).value


class TwoAtATime(CLIPClassifier):
    """skorch's recipe for gradient accumulation."""

    def __init__(self, *args, accumulate=2, **kwargs):
        super().__init__(*args, **kwargs)
        self.accumulate = accumulate

    def initialize(self):
        self.batches_ = 0
        return super().initialize()

    def get_loss(self, *args, **kwargs):
        return super().get_loss(*args, **kwargs) / self.accumulate

    def train_step(self, batch, **fit_params):
        step = self.train_step_single(batch, **fit_params)
        self.batches_ += 1
        if self.batches_ % self.accumulate == 0:
            self.optimizer_.step()
            self.optimizer_.zero_grad()
        return step


def in_bf16(net_class):
    class InBfloat16(net_class):
        def infer(self, x, **fit_params):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return super().infer(x, **fit_params).float()

    return InBfloat16


@pytest.mark.parametrize(
    ("net_class", "options"),
    [
        (CLIPClassifier, {}),
        (TwoAtATime, {}),
        (in_bf16(CLIPClassifier), {}),
        (CLIPClassifier, {"callbacks": [GradientNormClipping(1.0)]}),
    ],
    ids=["plain", "accumulation", "bf16", "clipping"],
)
def test_a_classifiers_constant_is_lower_and_pairs_and_lam_move(net_class, options):
    shared = {**OPTIONS, "domain": (0.0, 1.0), "size": 8, "max_epochs": 8, **options}
    torch.manual_seed(0)
    plain = net_class(Net, lam=0.0, **shared).fit(X, Y)
    torch.manual_seed(0)
    stable = net_class(Net, lam=0.5, target=0.7, rate=0.05, **shared).fit(X, Y)
    assert constant(stable) < 0.8 * constant(plain)
    assert stable.clip_.clip.lam != 0.5
    assert stable.clip_.clip.pairs.age.max() > 0


def test_a_regressors_constant_is_lower_and_lam_moves():
    plain = regressor(lam=0.0, max_epochs=8).fit(X, Z)
    stable = regressor(lam=0.3, target=0.5, rate=0.05, max_epochs=8).fit(X, Z)
    assert constant(stable) < 0.8 * constant(plain)
    assert stable.clip_.clip.lam != 0.3


def test_the_validation_loss_is_without_penalty():
    net = classifier(lam=0.1, max_epochs=1).fit(X, Y)
    x, y = torch.from_numpy(X), torch.from_numpy(Y)
    output = net.module_(x)
    assert net.get_loss(output, y, X=x) == nn.functional.cross_entropy(output, y)
    assert net.get_loss(output, y, X=x, training=True) > net.get_loss(output, y, X=x)


def test_without_lam_it_is_skorchs_own():
    ours = classifier(lam=0.0).fit(X, Y)
    torch.manual_seed(0)
    theirs = NeuralNetClassifier(Net, criterion=nn.CrossEntropyLoss, **OPTIONS).fit(X, Y)
    np.testing.assert_array_equal(ours.predict_proba(X), theirs.predict_proba(X))


def test_in_a_pipeline_and_a_search():
    search = GridSearchCV(
        make_pipeline(MinMaxScaler(), classifier(max_epochs=2)),
        {"clipclassifier__lam": [0.0, 0.1], "clipclassifier__target": [None], "clipclassifier__lr": [0.1]},
        cv=2,
        error_score="raise",
    ).fit(X, Y)
    assert set(search.cv_results_["param_clipclassifier__lam"]) == {0.0, 0.1}
    assert 0 < search.score(X, Y) <= 1


class Seeded(Net):
    """The same weights in every process."""

    def __init__(self, width=16):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            super().__init__(width=width)


def test_a_search_in_two_processes_finds_what_one_process_finds():
    """Loky's workers get the estimator, its domain and its options by pickle, and send the fitted scores back."""
    net = CLIPClassifier(Seeded, **{**OPTIONS, "domain": (0.0, 1.0), "size": 8, "target": 0.9, "max_epochs": 2})
    choices = {"lam": [0.01, 1.0], "module__width": [4, 16]}
    one, two = (
        GridSearchCV(net, choices, cv=2, error_score="raise", n_jobs=jobs, return_train_score=True).fit(X, Y)
        for jobs in (1, 2)
    )
    for name in ("mean_test_score", "mean_train_score"):
        np.testing.assert_allclose(one.cv_results_[name], two.cv_results_[name])
    assert len(set(two.cv_results_["mean_train_score"])) > 1
    np.testing.assert_array_equal(one.predict(X), two.predict(X))
    assert two.best_estimator_.clip_.clip.lam != two.best_params_["lam"]  # it was steered


@pytest.mark.parametrize("make", [classifier, lambda **options: CLIPClassifier(**options), regressor])
def test_a_fitted_net_is_loaded_in_another_process(make, tmp_path):
    joblib = pytest.importorskip("joblib")
    net = make(max_epochs=2).fit(X, Z if make is regressor else np.array(["no", "yes"])[Y])
    joblib.dump(net, tmp_path / "net.joblib")
    workers = joblib.Parallel(n_jobs=2)
    loaded = workers(joblib.delayed(_loaded)(tmp_path / "net.joblib", X) for _ in range(2))
    for predicted, lam in loaded:
        np.testing.assert_array_equal(predicted, net.predict(X))
        assert lam == float(net.clip_.clip.lam)


def _loaded(path, x):
    import joblib

    net = joblib.load(path)
    return net.predict(x), float(net.clip_.clip.lam)


@pytest.mark.parametrize("net", [classifier(max_epochs=1), regressor(max_epochs=1)], ids=["classifier", "regressor"])
def test_cross_validation(net):
    scores = cross_val_score(net, X, Y if isinstance(net, CLIPClassifier) else Z, cv=2, error_score="raise")
    assert np.isfinite(scores).all()


def test_clone_and_parameters():
    net = classifier(lam=0.2, target=0.9, every=2)
    other = clone(net).set_params(lam=0.3)
    assert (other.lam, other.target, other.every, net.lam) == (0.3, 0.9, 2, 0.2)
    assert {"lam", "target", "rate", "smoothing", "domain", "size", "every"} <= net.get_params().keys()


def test_a_pickled_net_goes_on_as_the_original():
    net = classifier(target=0.9, max_epochs=2).fit(X, Y)
    other = pickle.loads(pickle.dumps(net))
    np.testing.assert_array_equal(net.predict_proba(X), other.predict_proba(X))
    for each in (net, other):
        torch.manual_seed(1)
        each.partial_fit(X, Y)
    np.testing.assert_array_equal(net.predict_proba(X), other.predict_proba(X))
    assert net.clip_.clip.lam == other.clip_.clip.lam


def test_resumed_from_checkpoint_equals_uninterrupted(tmp_path):
    whole = classifier(target=0.9, max_epochs=4).fit(X, Y)
    saved = TrainEndCheckpoint(dirname=str(tmp_path), f_clip="clip.pt")
    classifier(target=0.9, max_epochs=2, callbacks=[saved]).fit(X, Y)
    resumed = classifier(target=0.9, max_epochs=2, callbacks=[LoadInitState(saved)]).fit(X, Y)
    np.testing.assert_array_equal(whole.predict_proba(X), resumed.predict_proba(X))
    for name, value in whole.clip_.get_extra_state().items():
        assert torch.equal(value, resumed.clip_.get_extra_state()[name]), name


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("ours", "theirs"), [(CLIPClassifier, NeuralNetClassifier), (CLIPRegressor, NeuralNetRegressor)]
)
def test_scikit_learns_checks_pass_as_far_as_skorchs_own(ours, theirs):
    options = {"max_epochs": 1, "verbose": 0, "train_split": None}
    if theirs is NeuralNetClassifier:
        options["criterion"] = nn.CrossEntropyLoss
    net = nn.Linear(2, 2 if theirs is NeuralNetClassifier else 1)

    def failures(estimator):
        results = check_estimator(estimator, on_fail=None, on_skip=None)
        return {result["check_name"] for result in results if result["status"] == "failed"}

    assert failures(ours(net, **options)) <= failures(theirs(net, **options))


def test_an_immovable_lam_is_refused():
    with pytest.raises(ValueError, match=r"^lam = 0 never moves under the multiplicative rule: start from lam > 0"):
        classifier(lam=0.0, target=0.9).fit(X, Y)


def test_several_inputs_are_refused():
    class Named(Net):
        def forward(self, x):
            return self.layers(x)

    with pytest.raises(TypeError, match=r"^X: expected one array, got dict: CLIP needs a module with one input$"):
        CLIPClassifier(Named, **OPTIONS).fit({"x": X}, Y)


def test_the_penalty_before_training_says_so():
    net = classifier().initialize()
    with pytest.raises(RuntimeError, match=r"^no pairs yet: they are made from the first training batch; train for a"):
        net.clip_.clip  # noqa: B018


class Frozen(Net):
    def __init__(self) -> None:
        super().__init__()
        self.requires_grad_(False)


class NoGradient(Net):
    @torch.no_grad()
    def forward(self, x):
        return super().forward(x)


@pytest.mark.parametrize(
    ("module", "error", "message"),
    [
        (Frozen, RuntimeError, "no parameter of the model requires a gradient, so the penalty does nothing"),
        (NoGradient, ValueError, "the model's output does not depend differentiably on its input"),
    ],
)
def test_a_module_without_gradients_is_refused(module, error, message):
    net = CLIPClassifier(module, **OPTIONS)
    with pytest.raises(error, match=f"^{re.escape(message)}"):
        net.fit(X, Y)


def test_a_loss_of_ones_own_must_call_the_estimators():
    class Own(CLIPClassifier):
        def get_loss(self, y_pred, y_true, *args, **kwargs):
            return nn.functional.cross_entropy(y_pred, y_true)

    with pytest.raises(RuntimeError, match=r"^a training step that did not pass Own's get_loss, so the penalty did no"):
        Own(Net, **OPTIONS).fit(X, Y)


def test_a_box_is_refused():
    with pytest.raises(TypeError, match=r"^domain: expected \(low, high\), got a Box: skorch keeps no modules among"):
        CLIPClassifier(Net, domain=Box(0.0, 1.0))


# Outputs and labels of every form


def steered(module, criterion, **options):
    """λ cannot matter: what the controller saw is the accuracy of a network that learns nothing."""
    torch.manual_seed(0)
    options = {
        "lam": 1e-4,
        "target": 0.6,
        "smoothing": 0.0,
        "size": 4,
        **OPTIONS,
        "lr": 1e-12,
        "max_epochs": 1,
        **options,
    }
    return CLIPClassifier(module, criterion=criterion, **{**options, "batch_size": len(X)})


def logits(outputs, flat=False):
    torch.manual_seed(1)
    layers = [nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, outputs)]
    return nn.Sequential(*layers, *([nn.Flatten(0)] if flat else []))


SEEN = {
    "classes": (logits(2), nn.CrossEntropyLoss, Y, lambda out: out.argmax(1) == Y),
    "int32": (logits(2), nn.CrossEntropyLoss, Y.astype("int32"), lambda out: out.argmax(1) == Y),
    "bytes": (logits(2), nn.CrossEntropyLoss, Y.astype("uint8"), lambda out: out.argmax(1) == Y),
    "strings": (logits(2), nn.CrossEntropyLoss, np.array(["no", "yes"])[Y], lambda out: out.argmax(1) == Y),
    "bool": (logits(2), nn.CrossEntropyLoss, Y.astype(bool), lambda out: out.argmax(1) == Y),
    "-1 and 1": (logits(2), nn.CrossEntropyLoss, 2 * Y - 1, lambda out: out.argmax(1) == Y),
    "whole floats": (logits(2), nn.CrossEntropyLoss, Y.astype("float32"), lambda out: out.argmax(1) == Y),
    "soft": (logits(2), nn.CrossEntropyLoss, np.eye(2, dtype="float32")[Y], lambda out: out.argmax(1) == Y),
    "one logit": (logits(1), nn.BCEWithLogitsLoss, Y.astype("float32")[:, None], lambda out: (out[:, 0] > 0) == Y),
    "one logit, flat": (logits(1, flat=True), nn.BCEWithLogitsLoss, Y.astype("float32"), lambda out: (out > 0) == Y),
    "one logit, integers": (logits(1), nn.BCEWithLogitsLoss, Y[:, None], lambda out: (out[:, 0] > 0) == Y),
    "one logit, bool": (logits(1), nn.BCEWithLogitsLoss, Y.astype(bool)[:, None], lambda out: (out[:, 0] > 0) == Y),
    "one logit, strings": (
        logits(1),
        nn.BCEWithLogitsLoss,
        np.array(["no", "yes"])[Y],
        lambda out: (out[:, 0] > 0) == Y,
    ),
    "a probability": (
        nn.Sequential(logits(1), nn.Sigmoid()),
        nn.BCELoss,
        Y.astype("float32")[:, None],
        lambda out: (out[:, 0] > 0.5) == Y,
    ),
    "margins": (logits(1), nn.SoftMarginLoss, (2.0 * Y[:, None] - 1).astype("f"), lambda out: (out[:, 0] > 0) == Y),
    "several labels": (
        logits(3),
        nn.BCEWithLogitsLoss,
        (X[:, :3] > 0.5).astype("float32"),
        lambda out: (out > 0) == (X[:, :3] > 0.5),
    ),
    "probabilities of classes": (
        nn.Sequential(logits(2), nn.Softmax(1)),
        nn.NLLLoss,
        Y,
        lambda out: out.argmax(1) == Y,
    ),
}


@pytest.mark.parametrize("case", SEEN)
def test_the_controller_sees_the_accuracy(case):
    module, criterion, y, right = SEEN[case]
    net = steered(module, criterion).fit(X, y)
    seen = float(net.clip_.controller.average)
    assert seen == pytest.approx(right(net.forward(X).numpy()).mean(), abs=1e-6)


@pytest.mark.parametrize("case", ["strings", "bool", "-1 and 1", "whole floats", "one logit, strings", "classes"])
def test_predictions_are_labels_as_given(case):
    module, criterion, y, right = SEEN[case]
    net = steered(module, criterion).fit(X, y)
    predicted = net.predict(X)
    assert set(predicted.tolist()) <= set(y.tolist())
    assert (predicted == y).mean() == pytest.approx(right(net.forward(X).numpy()).mean())


@pytest.mark.parametrize("given", [True, False], ids=["metric", "no metric"])
def test_outputs_without_an_accuracy_ask_for_a_metric(given):
    def within(output, y):
        return ((output - y).abs() < 0.5).float().mean()

    net = steered(logits(1), nn.HuberLoss, metric=within if given else None)
    y = X.sum(1, keepdims=True)
    if given:
        assert 0 <= float(net.fit(X, y).clip_.controller.average) <= 1
        return
    with pytest.raises(
        ValueError, match=r"^target: no accuracy is known for outputs .*: pass metric=, a function that"
    ):
        net.fit(X, y)


def test_a_metric_in_percent_is_refused():
    net = steered(
        logits(2), nn.CrossEntropyLoss, metric=lambda output, y: 100.0 * (output.argmax(1) == y).float().mean()
    )
    with pytest.raises(ValueError, match=r"^metric: expected an accuracy in \[0, 1\], got .*: 97 % is 0\.97"):
        net.fit(X, Y)


# Without a module


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (X, Y),
        (X.astype("float64"), np.array(["no", "yes"])[Y]),
        (X.tolist(), Y.tolist()),
        (X, Y.astype(bool)),
        (X, Y + 1),
        (X, -Y),
        (X, Y.astype("uint8")),
        (X, Y.astype("float64")),
        (X.reshape(-1, 1, 2, 2), Y),
        ((X > 0.5).astype("int64"), Y),
        (torch.from_numpy(X), torch.from_numpy(Y)),
    ],
    ids=[
        "plain",
        "float64, strings",
        "lists",
        "bool",
        "from 1",
        "negative",
        "bytes",
        "floats",
        "images",
        "ints",
        "tensors",
    ],
)
def test_a_classifier_without_a_module_is_a_perceptron(x, y):
    net = CLIPClassifier(max_epochs=10, target=0.8, lam=1e-3).fit(x, y)
    labels = np.asarray(y)
    assert set(net.predict(x).tolist()) <= set(labels.tolist())
    assert net.classes_.tolist() == sorted(set(labels.tolist()))
    assert net.score(x, labels) > 0.6
    assert clone(net).get_params().keys() == net.get_params().keys()


@pytest.mark.parametrize("columns", ["flat", "column", "unlike units"])
def test_a_regressor_without_a_module_is_a_perceptron(columns):
    y = {"flat": X.sum(1), "column": X.sum(1, keepdims=True), "unlike units": X[:, :2] * [1e6, 1e-3] + [0, 50]}[columns]
    net = CLIPRegressor(max_epochs=30, lam=1e-3).fit(X, y)
    predicted = net.predict(X)
    assert predicted.shape == y.shape
    errors = (predicted - y) / y.std(axis=0)
    assert np.abs(errors).mean(axis=0).max() < 0.5


def test_a_perceptron_in_scikit_learns_tools():
    search = GridSearchCV(
        make_pipeline(MinMaxScaler(), CLIPClassifier(max_epochs=2)),
        {"clipclassifier__lam": [0.0, 0.1], "clipclassifier__module__hidden_layer_sizes": [(8,), (8, 4)]},
        cv=2,
        error_score="raise",
    ).fit(X.astype("float64"), np.array(["no", "yes"])[Y])
    again = pickle.loads(pickle.dumps(search.best_estimator_))
    np.testing.assert_array_equal(search.predict(X), again.predict(X))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": X[:, :3]}, ValueError, "X: expected 4 features, as in training, got 3"),
        ({"y": np.eye(3)[Y]}, ValueError, "y: expected one label for each input, got shape (128, 3): for several yes-"),
        ({"x": np.where(X > 0.9, np.nan, X)}, ValueError, "contains NaN"),
    ],
    ids=["fewer features", "several labels", "missing"],
)
def test_what_a_perceptron_cannot_take(change, error, message):
    net = CLIPClassifier(max_epochs=1)
    if "x" in change and change["x"].shape == (128, 3):
        net.fit(X, Y)
        with pytest.raises(error, match=re.escape(message)):
            net.predict(change["x"])
        return
    with pytest.raises(error, match=re.escape(message)):
        net.fit(change.get("x", X), change.get("y", Y))


@pytest.mark.parametrize("module", [None, Net], ids=["perceptron", "module"])
@pytest.mark.parametrize("kind", ["csr_matrix", "csc_array", "coo_matrix", "torch"])
def test_sparse_inputs_are_refused(kind, module):
    sparse = pytest.importorskip("scipy.sparse")
    x = torch.from_numpy(X).to_sparse() if kind == "torch" else getattr(sparse, kind)(X)
    with pytest.raises(TypeError, match=r"^X: expected a dense array, got a sparse .*: pass X\.to"):
        CLIPClassifier(module, max_epochs=1, verbose=0, train_split=None).fit(x, Y)


@pytest.mark.parametrize(
    ("make", "method"),
    [
        *((CLIPClassifier, method) for method in ("predict", "predict_proba", "partial_fit")),
        *((CLIPRegressor, method) for method in ("predict", "partial_fit")),
    ],
)
def test_sparse_inputs_are_refused_after_fit(make, method):
    sparse = pytest.importorskip("scipy.sparse")
    net, x = make(max_epochs=1).fit(X, Y if make is CLIPClassifier else Z), sparse.csr_matrix(X)
    with pytest.raises(TypeError, match=r"dense"):
        getattr(net, method)(*((x, Y) if method == "partial_fit" else (x,)))


# Options that change in mid-training


@pytest.mark.parametrize(
    ("options", "pairs_stay"),
    [
        ({"lam": 0.7}, True),
        ({"target": 0.95}, True),
        ({"rate": 0.2, "smoothing": 0.5}, True),
        ({"target": None}, True),
        ({"size": 5}, False),
        ({"every": 2}, False),
        ({"domain": (0.0, 2.0)}, False),
        ({"step": "gradient"}, False),
    ],
    ids=str,
)
def test_options_change_in_mid_training(options, pairs_stay):
    net = classifier(target=0.8, max_epochs=2).fit(X, Y)
    lam, pairs = float(net.clip_.clip.lam), net.clip_.clip.pairs
    net.set_params(**options)
    assert float(net.clip_.clip.lam) == pytest.approx(options.get("lam", lam))
    assert (net.clip_.clip.pairs is pairs) == pairs_stay
    net.partial_fit(X, Y)
    if options.get("target", 1) is None:
        assert net.clip_.controller is None
    elif "target" in options:
        assert net.clip_.controller.target == options["target"]
    if "size" in options:
        assert len(net.clip_.clip.pairs.u) == options["size"]


def test_a_bad_option_in_mid_training_changes_nothing():
    net = classifier(target=0.8, max_epochs=1).fit(X, Y)
    with pytest.raises(ValueError, match=r"^target: expected an accuracy in \(0, 1\), got 97"):
        net.set_params(target=97)
    assert net.clip_.target == 0.8


class Changes(Callback):
    """Sets options after the second epoch, and keeps λ after each batch."""

    def __init__(self, **options):
        self.options, self.lams = options, []

    def on_batch_end(self, net, training=False, **_):
        if training:
            self.lams.append(float(net.clip_.clip.lam))

    def on_epoch_end(self, net, **_):
        if len(net.history) == 2:
            net.set_params(**self.options)


@pytest.mark.parametrize(
    ("options", "holds"),
    [
        ({"lam": 5.0, "target": None}, lambda lams: set(lams[16:]) == {5.0}),
        ({"target": 0.01, "rate": 0.1}, lambda lams: lams[-1] > 1.5 * lams[15]),
        ({"target": 0.999, "rate": 0.1}, lambda lams: lams[-1] < lams[15] / 1.5),
    ],
    ids=["lam alone", "a lower target", "a higher target"],
)
def test_a_callback_changes_options_while_it_trains(options, holds):
    changes = Changes(**options)
    classifier(lam=0.1, target=0.8, rate=1e-6, smoothing=0.0, callbacks=[changes]).fit(X, Y)
    assert len(changes.lams) == 4 * 8
    assert changes.lams[:16] == pytest.approx([0.1] * 16, rel=1e-3)
    assert holds(changes.lams), changes.lams

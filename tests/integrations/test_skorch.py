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
from skorch.callbacks import GradientNormClipping, LoadInitState, TrainEndCheckpoint

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

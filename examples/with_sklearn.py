"""CLIP as a scikit-learn estimator, in a grid search over its target.

python examples/with_sklearn.py     (needs pip install 'cheaplip[skorch]')
"""

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV
from torch import nn

import cheaplip
from cheaplip.integrations.skorch import CLIPClassifier
from cheaplip.lipschitz import largest_quotient


def main() -> None:
    torch.manual_seed(0)
    images, y = load_digits(return_X_y=True)
    x = (images / 16).astype("float32")

    classifier = CLIPClassifier(
        nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10)),
        lam=0.1,
        domain=(0.0, 1.0),
        optimizer=torch.optim.SGD,
        optimizer__momentum=0.9,
        lr=0.1,
        batch_size=64,
        iterator_train__shuffle=True,
        max_epochs=10,
        train_split=None,
        verbose=0,
    )
    search = GridSearchCV(classifier, {"target": [0.96, 0.98]}, cv=2).fit(x[:1400], y[:1400])

    best = search.best_estimator_
    accuracy = best.score(x[1400:], y[1400:])
    domain = cheaplip.Box(0.0, 1.0)
    quotient = largest_quotient(best.module_, torch.from_numpy(x[:1400]), domain=domain, size=64, steps=50).value
    lam = best.clip_.clip.lam
    print(f"test accuracy {accuracy:.3f}, largest quotient found {quotient:.2f}, λ {lam:.3g}, {search.best_params_}")


if __name__ == "__main__":
    main()

"""The accuracy of a batch, for outputs and labels of every usual form."""

import re

import pytest
import torch

from cheaplip.integrations.metrics import count_right, count_right_of_threshold, share

LOGITS = torch.tensor([[3.0, 1.0, 0.0], [0.0, 2.0, 1.0], [0.0, 1.0, 5.0], [9.0, 1.0, 1.0]])
TOKENS = torch.stack([LOGITS, LOGITS.flip(0)])  # (2, 4, 3): classes last

CLASSES = {
    "all right": (LOGITS, [0, 1, 2, 0], {}, (4, 4)),
    "half right": (LOGITS, [0, 1, 0, 1], {}, (2, 4)),
    "labels as a column": (LOGITS, [[0], [1], [2], [1]], {}, (3, 4)),
    "bytes": (LOGITS, torch.tensor([0, 1, 2, 0], dtype=torch.uint8), {}, (4, 4)),
    "int8": (LOGITS, torch.tensor([0, 1, 2, -100], dtype=torch.int8), {}, (3, 3)),
    "int32": (LOGITS, torch.tensor([0, 1, 2, 1], dtype=torch.int32), {}, (3, 4)),
    "ignored": (LOGITS, [0, -100, 0, -100], {}, (1, 2)),
    "all ignored": (LOGITS, [-100] * 4, {}, (0, 0)),
    "another label ignored": (LOGITS, [0, 255, 2, 255], {"ignored": 255}, (2, 2)),
    "one-hot": (LOGITS, torch.eye(3)[[0, 1, 2, 1]], {"soft": True}, (3, 4)),
    "soft labels": (LOGITS, torch.eye(3)[[0, 1, 2, 0]] * 0.8 + 0.1, {"soft": True}, (4, 4)),
    "tokens, classes last": (TOKENS, [[0, 1, 2, 0], [0, 2, 1, 0]], {"last": True}, (8, 8)),
    "padded tokens": (TOKENS, [[0, 1, -100, -100], [0, 1, 1, -100]], {"last": True}, (4, 5)),
    "pixels, classes second": (TOKENS.transpose(1, 2), [[0, 1, 2, 0], [0, 2, 1, 1]], {}, (7, 8)),
    "an image": (TOKENS.transpose(1, 2)[..., None], torch.tensor([[0, 1, 2, 0], [0, 2, 1, 1]])[..., None], {}, (7, 8)),
    "two classes": (LOGITS[:, :2], [0, 1, 1, 0], {}, (4, 4)),
    "half precision": (LOGITS.half(), [0, 1, 2, 0], {}, (4, 4)),
    "NaN logits": (LOGITS * float("nan"), [1, 1, 1, 1], {}, (0, 4)),
}


@pytest.mark.parametrize("case", CLASSES)
def test_classes(case):
    output, y, options, expected = CLASSES[case]
    counts = count_right(output, torch.as_tensor(y), **options)
    assert tuple(counts.tolist()) == expected


X = torch.tensor([[1.5], [-0.5], [2.0], [-3.0]])
YES = {
    "columns": (X, [[1.0], [0.0], [1.0], [0.0]], (0.0, 0.5), (4, 4)),
    "flat outputs": (X[:, 0], [1.0, 0.0, 1.0, 1.0], (0.0, 0.5), (3, 4)),
    "flat labels": (X, [1.0, 0.0, 1.0, 1.0], (0.0, 0.5), (3, 4)),
    "flat outputs, labels in a column": (X[:, 0], [[1.0], [0.0], [0.0], [1.0]], (0.0, 0.5), (2, 4)),
    "integers": (X, [[1], [0], [1], [0]], (0.0, 0.5), (4, 4)),
    "bool": (X, [[True], [False], [True], [False]], (0.0, 0.5), (4, 4)),
    "signs": (X, [[1.0], [-1.0], [-1.0], [-1.0]], (0.0, 0.0), (3, 4)),
    "probabilities": (X.sigmoid(), [[1.0], [0.0], [1.0], [0.0]], (0.5, 0.5), (4, 4)),
    "smoothed": (X, [[0.9], [0.1], [0.9], [0.9]], (0.0, 0.5), (3, 4)),
    "several labels": (X.reshape(2, 2), [[1.0, 0.0], [1.0, 1.0]], (0.0, 0.5), (3, 4)),
    "several labels, some missing": (X.reshape(2, 2), [[1.0, -100.0], [1.0, 1.0]], (0.0, 0.5), (2, 3)),
    "a mask": (X.reshape(1, 1, 2, 2), torch.tensor([[[[1.0, 0.0], [1.0, 0.0]]]]), (0.0, 0.5), (4, 4)),
}


@pytest.mark.parametrize("case", YES)
def test_yes_or_no(case):
    output, y, (threshold, middle), expected = YES[case]
    counts = count_right_of_threshold(output, torch.as_tensor(y), threshold=threshold, middle=middle)
    assert tuple(counts.tolist()) == expected


@pytest.mark.parametrize(
    ("output", "y", "options"),
    [
        (LOGITS, torch.zeros(4), {}),
        (LOGITS, torch.zeros(4, 3), {}),
        (LOGITS, torch.zeros(4, dtype=torch.bool), {}),
        (LOGITS, torch.zeros(3, dtype=torch.long), {}),
        (LOGITS, torch.zeros(4, 3, dtype=torch.long), {}),
        (LOGITS[:, :1], torch.zeros(4, dtype=torch.long), {}),
        (LOGITS[:, 0], torch.zeros(4, dtype=torch.long), {}),
        (TOKENS, torch.zeros(2, dtype=torch.long), {"last": True}),
        (LOGITS, None, {}),
    ],
    ids=["numbers", "weights", "bool", "too few", "too many", "one class", "no classes", "one label a row", "none"],
)
def test_what_does_not_fit_is_refused_with_the_remedy(output, y, options):
    message = f"target: no accuracy is known for outputs of shape {tuple(output.shape)} and "
    with pytest.raises(ValueError, match=f"^{re.escape(message)}.*: pass metric=, a function that returns a fraction"):
        count_right(output, y, **options)


@pytest.mark.parametrize("y", [torch.zeros(3), torch.zeros(4, 2), None], ids=["too few", "too many", "none"])
def test_yes_or_no_labels_that_do_not_fit_are_refused(y):
    with pytest.raises(ValueError, match=r"^target: no accuracy is known for outputs of shape \(4, 1\) and "):
        count_right_of_threshold(X, y, threshold=0.0)


def test_the_share_of_nothing_is_not_a_number():
    assert share(torch.tensor([3.0, 4.0])) == 0.75
    assert share(torch.zeros(2)).isnan()

"""Five hundred random models: of each, what cheaplip says is examined by judges that look for a false statement.

``benchmarks/soundness.py`` examines as many models as it is told.
"""

import pytest

from proofs.examine import CRASH, FALSE, examine
from proofs.models import FAMILY, random_model

pytest.importorskip("scipy", reason="needs the extra bounds")
pytest.importorskip("cvxpy", reason="needs the extra test")

FAMILIES, EACH = 25, 20


@pytest.mark.filterwarnings("ignore")  # whatever a model's layers warn of
@pytest.mark.parametrize("family", range(FAMILIES))
def test_no_false_statement_and_no_crash(family):
    wrong = []
    for seed in range(FAMILY * family + 1, FAMILY * family + EACH + 1):
        notes = [note for note in examine(seed).notes if note.startswith((FALSE, CRASH))]
        wrong += [f"{seed} {note} | {random_model(seed)}" for note in notes]
    assert wrong == []

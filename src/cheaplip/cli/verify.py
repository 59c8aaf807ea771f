"""``cheaplip verify``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from cheaplip.cli.console import Interrupt, messages, progress_display, search_bar
from cheaplip.cli.options import check_seconds
from cheaplip.runs.folder import RunFolder
from cheaplip.trained.bracket import SECONDS
from cheaplip.trained.card import task_of_card
from cheaplip.trained.verify import verify_card

__all__ = ["VerifyCommand"]


@dataclass(frozen=True, kw_only=True)
class VerifyCommand:
    """Verify a run's model card: prove its claims again from the weights. Exit status 2 if it is not true."""

    run: Annotated[Path, tyro.conf.Positional]
    """the run's folder"""
    data: str | None = None
    """where the run's data are now, if they have moved"""
    seconds: float = SECONDS
    """time for both ends of the bracket, about"""

    def __call__(self, interrupt: Interrupt) -> None:
        """Verify the card, then print what was proved."""
        check_seconds(self.seconds)
        with progress_display() as bar:
            searched = search_bar(bar, self.run.name, interrupt)
            card, unchecked = verify_card(
                RunFolder(self.run), seconds=self.seconds, source=self.data, progress=searched
            )
        task = task_of_card(card)
        certified = ", ".join(
            f"{task.format_figure(value)} at ε = {key}" for key, value in card[task.figure]["certified"].items()
        )
        messages.print(
            f"yes: the weights and the data are those of the card, Lip(f) ≤ {card['bracket']['upper']:.6g}, certified "
            f"{certified}",
            soft_wrap=True,
        )
        for statement in unchecked:
            messages.print(f"not checked: {statement}", soft_wrap=True, markup=False)

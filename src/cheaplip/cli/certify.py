"""``cheaplip certify``."""

from dataclasses import dataclass
from typing import Annotated, Any

import tyro
from rich.table import Table

from cheaplip.cli.console import Interrupt, messages, print_json, progress_display, search_bar, show_table
from cheaplip.cli.options import check_seconds, parse_radii
from cheaplip.cli.report import update_report
from cheaplip.cli.trained_model import TrainedModelOptions
from cheaplip.errors import ConfigError
from cheaplip.runs.words import words_of
from cheaplip.trained.bracket import SECONDS
from cheaplip.trained.certify import advice, certify

__all__ = ["CertifyCommand"]


@dataclass(frozen=True, kw_only=True)
class CertifyCommand(TrainedModelOptions):
    """Prove how far each test input can move without changing its class, or how large a regression's error can become.

    Writes certified.csv and, for a run, its model card.
    """

    epsilon: str | None = None
    """radii (L2) of the certified accuracy or error, separated by commas; unset: they suit the data"""
    seconds: float = SECONDS
    """time for both ends of the bracket, about"""
    local: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """bound the constant in the ball around each test input, too: proves more, about 0.2 s an input; a run that was
    certified so stays so"""
    no_local: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """certify a run without these bounds again"""
    json: bool = False
    """print the metrics as JSON, and nothing else, on standard output"""

    def __call__(self, interrupt: Interrupt) -> None:
        """Certify the model, then print the certified figures."""
        radii = None if self.epsilon is None else parse_radii("epsilon", self.epsilon)
        check_seconds(self.seconds)
        if self.local and self.no_local:
            raise ConfigError("local: expected one of --local and --no-local, got both: leave one of them out")
        trained = self.load()
        with progress_display() as bar:
            metrics = certify(
                trained,
                epsilons=radii,
                seconds=self.seconds,
                local=True if self.local else False if self.no_local else None,
                progress=search_bar(bar, trained.name, interrupt),
            )
        print_json(metrics) if self.json else show_table(_table(trained.name, metrics))
        if not self.json and (said := advice(trained, metrics)):
            messages.print(said, soft_wrap=True, markup=False)
        if trained.folder is not None and not self.json:
            card = "" if trained.config is None else f", card: {trained.folder.path / 'card.md'}"
            messages.print(f"radii: {trained.folder.path / 'certified.csv'}{card}", soft_wrap=True)
        update_report(trained.folder)


def _table(name: str, metrics: dict[str, Any]) -> Table:
    table = Table(title=f"{name}: proved")
    table.add_column("figure")
    table.add_column("value", justify="right")
    words = words_of([metrics])
    table.add_row(f"{words.noun}, test", words.exact(metrics[words.key]["test"]))
    for key, value in metrics["certified"].items():
        table.add_row(f"{words.certified}, ε = {key}", words.exact(value))
    table.add_row("certified with", "bounds around each input" if metrics.get("local") else "one bound for all inputs")
    table.add_row("Lip(f) at least", f"{metrics['lipschitz']['lower']:.6g}")
    table.add_row("Lip(f) at most", f"{metrics['lipschitz']['upper']:.6g}")
    return table

"""Arranges a study for the HTML templates: the page of a comparison, of a run, or of an experiment of the paper."""

from collections.abc import Callable, Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from plotly.offline import get_plotlyjs

from cheaplip.report.cards.confusion import confusion
from cheaplip.report.cards.predictions import predictions
from cheaplip.report.cards.witness import witness
from cheaplip.report.gaps import gaps, problems
from cheaplip.report.methods import TRAINED_ON_ATTACKS
from cheaplip.report.options import options, versions
from cheaplip.report.paper.pair import pair
from cheaplip.report.paper.parts import Page
from cheaplip.report.paper.path import path as path_page
from cheaplip.report.paper.published import beside_published
from cheaplip.report.paper.regression import regression
from cheaplip.report.paper.tables import TABLES, by_rule, families
from cheaplip.report.paper.verdict import verdict
from cheaplip.report.plots.cost import cost
from cheaplip.report.plots.frontier import frontier_curves
from cheaplip.report.plots.robustness import perturbation_curves, trade_off
from cheaplip.report.plots.training import training_curves
from cheaplip.report.sentences.choice import attack_to_report
from cheaplip.report.sentences.headline import headline
from cheaplip.report.sentences.parts import Headline
from cheaplip.report.study import Study
from cheaplip.report.table import Table, columns, groups
from cheaplip.runs.numbers import spread

__all__ = ["headline_of", "page_of", "rendered"]

_EXPERIMENTS: Mapping[str, tuple[str, Callable[[Study], Page]]] = {
    "regression": ("Regression, the paper’s Figure 2", regression),
    "path": ("The path along λ, the paper’s Propositions 2 to 4", path_page),
    "figure1": ("A pair of images, the paper’s Figure 1", pair),
}  # titles and pages of those that are not tables, by name


def page_of(study: Study) -> str:
    """Write the page of a study, as HTML."""
    name = _experiment_name(study)
    return _experiment_page(study, *_EXPERIMENTS[name]) if name in _EXPERIMENTS else _table_page(study, name in TABLES)


def headline_of(study: Study) -> Headline:
    """Say what a study shows, as the top of its page does."""
    name = _experiment_name(study)
    if name in _EXPERIMENTS:
        return _EXPERIMENTS[name][1](study).headline
    if name in TABLES:
        on_validation = by_rule(study)[0].study
        return verdict(on_validation, families(on_validation), columns(study))
    return headline(study, groups(study), columns(study))


def rendered(template: str, **content: Any) -> str:
    """Fill one of the package's templates."""
    environment = Environment(
        loader=PackageLoader("cheaplip.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["spread"] = spread
    return environment.get_template(template).render(**content)


def _experiment_name(study: Study) -> str:
    return "" if study.experiment is None else study.experiment.name


def _experiment_page(study: Study, title: str, arranged: Callable[[Study], Page]) -> str:
    return rendered(
        "experiment.html",
        study=study,
        title=title,
        page=arranged(study),
        gaps=problems(study),
        versions=versions(study),
        plotly=get_plotlyjs(),
    )


def _table_page(study: Study, of_paper: bool) -> str:
    shown, words = columns(study), study.words
    if of_paper:
        rules = by_rule(study)
        rows = families(rules[0].study)
        tables = [Table.of(f"rule-{r.name}", r.title, families(r.study), shown, lead=r.note) for r in rules]
    else:
        rows = groups(study)
        tables = [Table.of("comparison", "The figures" if study.alone else "The comparison", rows, shown)]
    test, attack = shown[0], attack_to_report(shown, rows)
    plots = perturbation_curves(rows, shown, test, words)
    if of_paper and (against := beside_published(rows, shown)):
        plots.insert(0, against)
    plots = [*frontier_curves(rows, shown, attack, test, words), *plots]
    if study.left_out is not None and attack is not None and (price := cost(rows, shown, attack, test, words)):
        plots.insert(0, price)
    both = trade_off(rows, attack, test, words) if attack is not None and not study.alone else None
    return rendered(
        "study.html",
        study=study,
        words=words,
        headline=headline_of(study),
        label=TABLES[_experiment_name(study)] if of_paper else study.title,
        groups=rows,
        columns=shown,
        tables=tables,
        first=plots[0] if plots else None,
        others=[*plots[1:], *([] if both is None else [both])],
        curves=training_curves(rows, words),
        trained_on_attacks=any(group.method in TRAINED_ON_ATTACKS for group in rows),
        witnesses=[witness(group, words) for group in rows],
        confusions=[] if words.errors else [confusion(group) for group in rows],
        predictions=[predictions(group, words.unit) for group in rows] if words.errors else [],
        options=options(rows),
        versions=versions(study),
        gaps=gaps(study, shown),
        plotly=get_plotlyjs(),
    )

"""Table 1 and the authors' public table: who looks how, and the plot and the headline that stand above the rows."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from cheaplip.report.headline import Headline
from cheaplip.report.plot import Figure, Plotly, layout, plain
from cheaplip.report.read import Run, Study, number, section
from cheaplip.report.table import Column, Group, cell
from cheaplip.report.wording import attack_key, attack_title, percent

__all__ = ["TABLES", "Rule", "beside", "by_rule", "families", "published", "verdict"]

TABLES = {
    "table1-mnist": "The paper’s Table 1, MNIST",
    "table1-fashion-mnist": "The paper’s Table 1, Fashion-MNIST",
    "readme": "The table of the authors’ public code, MNIST",
}
_RULES = {
    "validation": (
        "Checkpoint chosen on validation data",
        "Of each training the epoch that withstood sign-PGD best on validation data; test data was touched once.",
    ),
    "test": (
        "Checkpoint chosen on test data, the paper’s rule",
        "Of the same trainings the epoch that withstood sign-PGD best on the very images it is tested on: optimistic.",
    ),
}
_FAMILIES = {
    ("plain", None): ("--s0", "circle"),
    ("weight", None): ("--s2", "diamond"),
    ("clip", "paper"): ("--s3", "triangle-up"),
    ("clip", "authors"): ("--s4", "x"),
    ("clip", "ours"): ("--s1", "square"),
    ("plain", "authors"): ("--s5", "cross"),
    ("plain", "ours"): ("--s0", "circle"),
    ("certified", None): ("--s7", "star"),
}  # method and variant
_DASHES = ("solid", "dash", "dashdot")  # dotted lines have meanings of their own
_MARGIN = 0.15  # by which our sign-PGD is to be above the published one
_LINE = 26  # pixels for each row of the plot


@dataclass(frozen=True)
class Rule:
    """One of the two tables: the same trainings, other epochs."""

    name: str
    title: str
    note: str
    study: Study


def by_rule(study: Study) -> list[Rule]:
    """A table for each rule by which an epoch was chosen; rows without one stand with the first."""
    known = [rule for rule in _RULES if any(run.row.get("rule") == rule for run in study.runs)] or ["validation"]
    split: dict[str, list[Run]] = {rule: [] for rule in known}
    for run in study.runs:
        rule = str(run.row.get("rule"))
        split[rule if rule in split else known[0]].append(run)
    return [Rule(rule, *_RULES[rule], replace(study, runs=tuple(runs))) for rule, runs in split.items()]


def families(study: Study) -> list[Group]:
    """A colour and a symbol for each kind of training, a dash for each target, in order of the table."""
    targets: dict[tuple[str, str | None], list[float | None]] = {}
    found = []
    for name in dict.fromkeys(run.name for run in study.runs):
        runs = tuple(run for run in study.runs if run.name == name)
        variant = runs[0].row.get("variant")
        family = runs[0].method, variant if isinstance(variant, str) else None
        seen = targets.setdefault(family, [])
        if runs[0].target not in seen:
            seen.append(runs[0].target)
        color, symbol = _FAMILIES.get(family, ("--s6", "circle"))
        found.append(Group(name, runs, color, symbol, _DASHES[seen.index(runs[0].target) % len(_DASHES)]))
    return found


def _paper(column: Column, group: Group) -> float | None:
    return number(section(group.runs[0].row, "paper").get(column.path[-1]))


def published(column: Column, group: Group) -> str:
    """The paper's figure, as our cell is written; empty where it has none."""
    value = _paper(column, group)
    return "" if value is None else column.write(value)


def _attack(columns: Sequence[Column], name: str) -> Column | None:
    """The first column of an attack."""
    return next((c for c in columns if c.path[0] == "robust" and (attack_key(c.path[1]) or ("", 0.0))[0] == name), None)


def beside(rows: Sequence[Group], columns: Sequence[Column]) -> Figure | None:
    """For each row what is left under the paper's attack, here and as published, and under a strong one."""
    weak = _attack(columns, "pgd-sign")
    strong = _attack(columns, "autoattack") or _attack(columns, "pgd")
    if weak is None:
        return None
    data: list[Plotly] = []
    told: list[str] = []
    hover = "%{y}: %{x:.1f} %"
    for group in rows:
        ours = [(column, symbol) for column, symbol in ((strong, "x"), (weak, "circle")) if column is not None]
        found = [(100 * c.mean, symbol) for column, symbol in ours if (c := cell(column, group.runs))]
        if not found:
            continue
        data.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": plain(group.name),
                "x": [x for x, _ in found],
                "y": [plain(_short(group))] * len(found),
                "line": {"color": group.color, "width": 2},
                "marker": {"color": group.color, "symbol": [symbol for _, symbol in found], "size": 10},
                "showlegend": False,
                "hovertemplate": hover,
            }
        )
        paper = _paper(weak, group)
        if paper is not None:
            data.append(_point([100 * paper], [plain(_short(group))], "circle-open", "published", hover))
        said = "" if paper is None else f", published {percent(paper)}"
        told.append(f"{group.name} {' to '.join(f'{x:.1f} %' for x, _ in found)}{said}")
    if not data:
        return None
    name = "" if strong is None else attack_title((attack_key(strong.path[1]) or ("", 0.0))[0])
    legend = [("circle", f"{weak.title}, here"), ("circle-open", f"{weak.title}, published")]
    legend += [("x", f"{name}, here")] if strong is not None else []
    data += [{**_point([None], [plain(_short(rows[0]))], *entry, hover), "showlegend": True} for entry in legend]
    axes = layout("accuracy under attack (%)", "row of the table")
    axes["xaxis"] |= {"range": [-3, 103], "dtick": 25}
    axes["yaxis"] |= {"type": "category", "autorange": "reversed", "dtick": 1, "tickfont": {"size": 11}}
    axes["yaxis"]["categoryarray"] = [plain(_short(group)) for group in rows]
    axes |= {"showlegend": True, "legend": {"orientation": "h", "y": 1.01, "yanchor": "bottom", "x": 0}}
    alt = f"Dot plot of accuracy under {name or weak.title} and {weak.title}: {'; '.join(told)}."
    note = "The line is what the weaker attack misses."
    return Figure(
        f"Under attack ({weak.unit}), here and as published", alt, data, axes, note, height=130 + _LINE * len(rows)
    )


def _point(x: Sequence[float | None], y: Sequence[str], symbol: str, name: str, hover: str) -> Plotly:
    marker = {"color": "--ink", "symbol": symbol, "size": 10}
    drawn: Plotly = {"type": "scatter", "mode": "markers", "name": plain(name), "x": list(x), "y": list(y)}
    return drawn | {"marker": marker, "showlegend": False, "hovertemplate": hover}


def _short(group: Group) -> str:
    """A name that fits beside a plot on a phone."""
    variant = {"paper": "paper’s", "authors": "authors’", "ours": "ours"}.get(str(group.runs[0].row.get("variant")))
    return group.name if variant is None else f"{group.name.partition(',')[0]}, {variant}"


def verdict(study: Study, rows: Sequence[Group], columns: Sequence[Column]) -> Headline:
    """Our CLIP against the published row of the same target, and where it is not above weight regularisation."""
    weak = _attack(columns, "pgd-sign")
    details = []
    if study.experiment is not None and study.experiment.quick:
        details.append(
            "This is the quick version, of few images and epochs: its figures show that everything runs, no more."
        )
    ours = [group for group in rows if group.method == "clip" and group.runs[0].row.get("variant") == "ours"]
    told = []
    for group in ours:
        held, paper = (None, None) if weak is None else (cell(weak, group.runs), _paper(weak, group))
        if held is not None and paper is not None:
            told.append((held.mean, paper, group))
    if not told:
        return Headline(f"{study.title}: no row of our CLIP beside a published one yet.", tuple(details))
    mean, paper, group = max(told, key=lambda found: found[0])
    sentence = (
        f"Under the paper’s own attack our CLIP with the target {percent(group.target or 0)} gets {percent(mean)} of "
        f"{study.title} test inputs right; the paper’s of the same target, {percent(paper)}."
    )
    strong = _attack(columns, "autoattack")
    if strong is not None and (left := cell(strong, group.runs)):
        tried = number(section(group.runs[0].row, "robust_samples").get(strong.path[1]))
        count = "" if tried is None else f", tried on {tried:,.0f}"
        details.append(f"The paper’s attack is weak: AutoAttack leaves the same network {percent(left.mean)}{count}.")
    short = [f"{g.name} ({percent(a)}, published {percent(b)})" for a, b, g in told if a < b + _MARGIN]
    if short:
        details.append(f"Not 15 points above the published row: {'; '.join(short)}.")
    elif len(told) > 1:
        details.append(f"In each of the {len(told)} rows ours is at least 15 points above the published one.")
    details += _against_weight(rows, ours, columns)
    return Headline(sentence, tuple(details))


def _against_weight(rows: Sequence[Group], ours: Sequence[Group], columns: Sequence[Column]) -> list[str]:
    weight = {group.target: group for group in rows if group.method == "weight"}
    measures = [column for name in ("noise", "pgd", "autoattack") if (column := _attack(columns, name))]
    compared, below = 0, []
    for group in ours:
        rival = weight.get(group.target)
        for column in measures if rival is not None else []:
            a, b = cell(column, group.runs), cell(column, rival.runs) if rival is not None else None
            if a is None or b is None:
                continue
            compared += 1
            if a.mean <= b.mean:
                below.append(f"{column.title}, {group.name} ({percent(a.mean)} against {percent(b.mean)})")
    if not compared:
        return []
    names = ", ".join(column.title for column in measures)
    if below:
        return [f"Not above weight regularisation of the same target: {'; '.join(below)}."]
    return [f"Above weight regularisation at each target, under each of {names}."]

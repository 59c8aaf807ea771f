"use strict";
(() => {
  const plots = [...document.querySelectorAll(".plot")].map((element) => ({
    element,
    figure: JSON.parse(element.querySelector("script").textContent),
  }));

  // Colours in the figures are names of CSS variables.
  const colored = (value, style) => {
    if (Array.isArray(value)) return value.map((item) => colored(item, style));
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).map(([key, item]) =>
      [key, key === "color" && String(item).startsWith("--") ? style.getPropertyValue(item).trim() : colored(item, style)]));
  };

  const completed = (figure, style, width) => {
    const { data, layout } = colored(figure, style);
    const grid = style.getPropertyValue("--grid").trim();
    const line = style.getPropertyValue("--line").trim();
    const axis = (own) => ({
      gridcolor: grid, linecolor: line, zeroline: false, automargin: true, fixedrange: true, nticks: 6, ...own,
      title: { standoff: 8, ...own.title },
    });
    return [data, {
      ...layout,
      ...(width ? { width } : { autosize: true }),
      margin: { l: 8, r: 12, t: 14, b: 8, ...layout.margin },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: style.fontFamily, size: 12, color: style.getPropertyValue("--ink").trim() },
      dragmode: false,
      xaxis: axis(layout.xaxis),
      yaxis: axis(layout.yaxis),
    }];
  };

  const draw = (width) => Promise.all(plots.map(async ({ element, figure }) => {
    const [data, layout] = completed(figure, getComputedStyle(document.body), width);
    try {
      await Plotly.react(element, data, layout, { displayModeBar: false, responsive: true });
      element.dataset.drawn = "true";
    } catch (error) {
      element.classList.add("failed");
      element.textContent = `This plot could not be drawn: ${error.message}`;
      console.error(error);
    }
  }));

  const sort = (heading) => {
    const table = heading.closest("table");
    const column = heading.cellIndex;
    const first = column === 0 || heading.dataset.better === "-1" ? "ascending" : "descending";
    const other = first === "ascending" ? "descending" : "ascending";
    const direction = heading.getAttribute("aria-sort") === first ? other : first;
    for (const each of table.tHead.rows[0].cells) each.setAttribute("aria-sort", each === heading ? direction : "none");
    const sign = direction === "ascending" ? 1 : -1;
    const value = (row) => row.cells[column].dataset.value;
    const rows = [...table.tBodies[0].rows].sort((a, b) => {
      const [x, y] = [value(a), value(b)];
      if (x === undefined || y === undefined) return (x === undefined) - (y === undefined); // gaps stay last
      return sign * (column === 0 ? x.localeCompare(y) : Number(x) - Number(y));
    });
    table.tBodies[0].append(...rows);
  };

  for (const button of document.querySelectorAll(".figures thead button"))
    button.addEventListener("click", () => sort(button.closest("th")));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => draw());
  addEventListener("beforeprint", () => draw(320));
  addEventListener("afterprint", () => draw());
  draw();
})();

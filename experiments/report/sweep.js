// A sweep: every view is of the cells that the filters leave, and measured by one metric.
const MOST = 30; // values of an axis that it is filtered by; a search has more

function showSweep({ axes, metrics, cells, quantiles }) {
  const names = Object.keys(axes);
  const facets = { ...axes, state: [...new Set(cells.map((cell) => cell.state))] };
  const rows = [...document.querySelector("#cells tbody").rows];
  cells.forEach((cell, n) => {
    cell.row = rows[n];
    cell.at = { ...Object.fromEntries(names.map((name, a) => [name, cell.levels[a]])), state: cell.state };
    cell.row.classList.add(`state-${cell.state}`);
  });
  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
  const deviation = (values) => Math.sqrt(values.reduce((sum, v) => sum + (v - mean(values)) ** 2, 0) / (values.length - 1));
  const metric = () => metrics[$("metric").value];
  const score = (cell) => cell.scores[$("metric").value] ?? null;
  const scored = (some) => some.filter((cell) => score(cell) !== null);
  const text = (value, more = 0) => value.toFixed(metric().digits + more);
  const signed = (value) => (value < 0 ? "−" : "+") + text(Math.abs(value), 1);

  const boxes = Object.entries(facets).flatMap(([facet, levels]) => {
    const made = levels.map((level) => Object.assign(make("input", { type: "checkbox", id: `filter ${facet} ${level}`, checked: true }), { facet, level }));
    const labels = made.map((box) => make("label", {}, box, box.level));
    if (levels.length > 1 && levels.length <= MOST) $("filters").append(make("fieldset", {}, make("legend", {}, facet), ...labels));
    return made;
  });
  const options = (list) => list.map((name) => [name, name]);
  const wide = names.filter((name) => axes[name].length > 1);
  fillSelect($("metric"), metrics.map(({ title }, n) => [String(n), title]), "0");
  fillSelect($("group"), [["", "nothing"], ...options(Object.keys(facets))], "");
  if ($("down")) fillSelect($("down"), options(names), wide[0]);
  if ($("across")) fillSelect($("across"), options(names), wide[1] ?? names.find((name) => name !== wide[0]));
  if ($("colour")) fillSelect($("colour"), options(names), wide[0]);

  function group(left) {
    const body = document.querySelector("#cells tbody");
    for (const heading of body.querySelectorAll(".heading")) heading.remove();
    for (const cell of cells) cell.row.hidden = !left.includes(cell);
    const facet = $("group").value;
    for (const level of facet ? facets[facet] : []) {
      const members = left.filter((cell) => cell.at[facet] === level);
      const values = scored(members).map(score);
      const told = values.length ? `, ${metric().title} ${text(mean(values))}${values.length > 1 ? ` ± ${text(deviation(values))}` : ""} (${values.length})` : "";
      const heading = make("th", { colSpan: body.parentElement.tHead.rows[0].cells.length, textContent: `${facet} ${level}: ${members.length} cells${told}` });
      const order = [...body.rows].filter((row) => members.some((cell) => cell.row === row));
      if (members.length) body.append(make("tr", { className: "heading" }, heading), ...order);
    }
  }

  // the same as experiments/effects.py, of what the filters leave
  function effects(left, axis) {
    const levels = axes[axis].filter((level) => left.some((cell) => cell.at[axis] === level));
    const blocks = new Map();
    for (const cell of scored(left)) {
      const key = JSON.stringify(names.filter((name) => name !== axis).map((name) => cell.at[name]));
      blocks.set(key, { ...blocks.get(key), [cell.at[axis]]: score(cell) });
    }
    const apart = [...blocks.values()].filter((block) => Object.keys(block).length === levels.length)
      .map((block) => levels.map((level) => block[level] - mean(Object.values(block))));
    if (levels.length < 2 || !apart.length) return [];
    return levels.map((level, l) => {
      const values = apart.map((block) => block[l]);
      const half = values.length > 1 ? (quantiles[values.length - 2] * deviation(values)) / Math.sqrt(values.length) : null;
      return { axis, level, effect: mean(values), half, blocks: values.length };
    });
  }

  function drawEffects(left) {
    const found = names.map((axis) => effects(left, axis)).filter((lines) => lines.length);
    const box = $("effects-chart");
    if (!found.length) return box.replaceChildren(make("p", {}, metrics.length ? "No axis has all its values under the same conditions here." : ""));
    const width = Math.max(Math.min(box.clientWidth, 900), 260);
    const edge = { left: Math.min(230, width * 0.4), right: width > 600 ? 150 : 12 }, row = 22, top = 6;
    const height = top + found.reduce((sum, lines) => sum + (lines.length + 1) * row, 0) + 40;
    const far = Math.max(...found.flat().map(({ effect }) => Math.abs(effect)), 10 ** -metric().digits);
    const reach = Math.max(far, Math.min(Math.max(...found.flat().map(({ effect, half }) => Math.abs(effect) + (half ?? 0))), 2 * far)) * 1.08;
    const px = (value) => edge.left + ((within(value, -reach, reach) + reach) / (2 * reach)) * (width - edge.left - edge.right);
    const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": `effects on ${metric().title}` });
    for (const x of ticks(-reach, reach, width > 600 ? 8 : 4)) {
      picture.append(svg("line", { class: Math.abs(x) < 1e-9 ? "axis" : "rule", x1: px(x), x2: px(x), y1: top, y2: height - 38 }));
      picture.append(svg("text", { x: px(x), y: height - 22, "text-anchor": "middle" }, brief(+x.toFixed(9)).replace("-", "−")));
    }
    picture.append(svg("text", { x: px(0), y: height - 4, "text-anchor": "middle" }, `apart from the mean of the block${metric().unit && ` (${metric().unit.trim()})`}`));
    let y = top + 14;
    found.forEach((lines) => {
      picture.append(svg("text", { class: "name", x: 0, y }, lines[0].axis), svg("text", { x: width, y, "text-anchor": "end" }, width > 600 ? `${lines[0].blocks} blocks` : ""));
      const hue = `hue-${names.indexOf(lines[0].axis) % HUES}`;
      for (const { level, effect, half } of lines) {
        y += row;
        const label = level.length > edge.left / 7 ? `${level.slice(0, edge.left / 7 - 1)}…` : level;
        const mark = svg("g", { class: `effect ${hue}`, "data-level": level, "data-effect": effect, "data-half": half ?? "" });
        const told = `${signed(effect)}${half === null ? "" : ` ± ${text(half, 1)}`}`;
        mark.append(svg("title", {}, `${lines[0].axis} ${level}: ${told}`), svg("text", { x: 12, y }, label));
        if (half !== null) {
          mark.append(svg("line", { class: "line", x1: px(effect - half), x2: px(effect + half), y1: y - 4, y2: y - 4 }));
          for (const side of [-1, 1]) {
            const end = effect + side * half;
            if (Math.abs(end) > reach) mark.append(svg("path", { class: "dot", d: `M${px(end) + side * 7} ${y - 4}l${-side * 8} -4v8z` }));
          }
        }
        mark.append(svg("circle", { class: "dot", cx: px(effect), cy: y - 4, r: 4.5 }));
        if (width > 600) mark.append(svg("text", { x: width, y, "text-anchor": "end" }, told));
        picture.append(mark);
      }
      y += row;
    });
    box.replaceChildren(picture);
  }

  function heat(left) {
    if (!$("down")) return;
    const [down, across] = [$("down").value, $("across").value];
    const of = (axis, other) => axes[axis].filter((level) => left.some((cell) => cell.at[axis] === level)).map((level) => [axis, level]);
    const at = (...wanted) => scored(left).filter((cell) => wanted.every(([axis, level]) => cell.at[axis] === level)).map(score);
    const lines = of(down).map((line) => [line, of(across).map((column) => at(line, column))]);
    const means = lines.flatMap(([, values]) => values).filter((values) => values.length).map(mean);
    const [low, high] = [Math.min(...means), Math.max(...means)];
    const most = Math.max(0, ...lines.flatMap(([, values]) => values.map((list) => list.length)));
    const head = make("tr", {}, make("th", {}, `${down} \\ ${across}`), ...of(across).map(([, level]) => make("th", { scope: "col" }, level)));
    const body = lines.map(([[, level], values]) => make("tr", {}, make("th", { scope: "row" }, level), ...values.map((list) => {
      const cell = make("td", { className: list.length ? "" : "none" }, list.length ? text(mean(list)) : "–");
      if (!list.length) return cell;
      cell.append(make("small", {}, `n ${list.length}`));
      cell.classList.toggle("few", list.length < most);
      cell.style.setProperty("--share", high > low ? (mean(list) - low) / (high - low) : 0);
      return cell;
    })));
    $("heat-map").replaceChildren(make("thead", {}, head), make("tbody", {}, ...body));
    $("heat-note").textContent = means.length ? `${metric().title}: the mean of n cells, over everything else. The stronger the colour, the higher.${lines.some(([, v]) => v.some((list) => list.length && list.length < most)) ? " Italics: fewer cells than elsewhere, so a mean of other things." : ""}` : "";
  }

  function colour(left) {
    const axis = $("colour")?.value;
    for (const line of data.charts.flatMap((chart) => chart.lines)) {
      line.cell ??= line.method;
      line.method = axis ? axes[axis].indexOf(cells[line.cell].at[axis]) : line.cell;
      line.out = !left.includes(cells[line.cell]);
    }
    if ($("charts")) legend(axis ? axes[axis].map((level) => `${axis} ${level}`) : cells.map((cell) => `cell ${cell.number}`));
  }

  function best(left) {
    if (!$("best-run")) return;
    const ranked = scored(left).sort((a, b) => score(b) - score(a));
    const first = ranked[0], shown = ranked.find((cell) => cell.method !== null);
    const called = (cell) => `cell ${cell.number} (${names.map((name) => `${name} ${cell.at[name]}`).join(", ")}), ${metric().title} ${text(score(cell))}`;
    $("best-run").textContent = !first ? "None of these cells is done." :
      first === shown ? `Best of these: ${called(first)}.` :
      `Best of these: ${called(first)}; its pictures are not in this page but in ${first.number}/pictures.${shown ? ` Shown instead: ${called(shown)}.` : ""}`;
    for (const id of shown ? ["extremes-method", "right"] : []) {
      if (![...($(id)?.options ?? [])].some((option) => option.value === String(shown.method))) continue;
      $(id).value = String(shown.method);
      $(id).dispatchEvent(new Event("change"));
    }
  }

  const left = () => cells.filter((cell) => boxes.every((box) => box.checked || cell.at[box.facet] !== box.level));
  function update() {
    const shown = left();
    const dropped = Object.keys(facets).filter((facet) => boxes.some((box) => box.facet === facet && !box.checked))
      .map((facet) => `${facet} ${boxes.filter((box) => box.facet === facet && box.checked).map((box) => box.level).join(" or ") || "none"}`);
    for (const place of document.querySelectorAll(".chosen")) {
      place.textContent = dropped.length ? `${shown.length} of ${cells.length} cells: ${dropped.join(", ")}` : `all ${cells.length} cells`;
    }
    for (const part of document.querySelectorAll("[data-of]")) part.hidden = part.dataset.of !== $("metric").value;
    group(shown);
    drawEffects(shown);
    heat(shown);
    colour(shown);
    best(shown);
  }
  for (const element of [...boxes, $("metric")]) element.addEventListener("change", update);
  $("unfilter").addEventListener("click", () => (boxes.forEach((box) => (box.checked = true)), update()));
  $("group").addEventListener("change", () => group(left()));
  $("colour")?.addEventListener("change", () => colour(left()));
  for (const id of ["down", "across"]) $(id)?.addEventListener("change", () => heat(left()));
  document.querySelector("#cells table").addEventListener("sorted", () => group(left()));
  let width = $("effects-chart").clientWidth;
  new ResizeObserver(() => {
    if ($("effects-chart").clientWidth === width) return;
    width = $("effects-chart").clientWidth;
    drawEffects(left());
  }).observe($("effects-chart"));
  update();
  return update;
}


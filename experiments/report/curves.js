// Training curves: one chart for each quantity, one line for each training, values under the pointer. What decides a
// line's colour, and whether it is left out, may be changed: then legend() draws again.
const HUES = 7;
const DASHES = ["", "6 3", "2 3"];
const MANY = 8; // lines of which each is read; of more, the mean of each colour is
const hidden = new Set();

function svg(tag, attributes, text) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

function ticks(low, high, count) {
  const rough = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough);
  const found = [];
  for (let n = Math.ceil(low / step - 1e-9); n * step <= high + step * 1e-9; n++) found.push(n * step);
  return found;
}

function decades(low, high) {
  const found = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++) {
    for (const factor of high / low > 50 ? [1] : [1, 2, 5]) {
      const value = factor * 10 ** power;
      if (value >= low && value <= high) found.push(value);
    }
  }
  return found;
}

const brief = (value) => {
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e6)) return value.toExponential(size < 1e-3 ? 1 : 0).replace("e+", "e");
  return size >= 1e4 ? `${+(value / 1e3).toPrecision(4)}k` : String(+value.toPrecision(4));
};

function nearest(line, step) {
  let best = 0;
  for (let n = 1; n < line.x.length; n++) {
    if (Math.abs(line.x[n] - step) < Math.abs(line.x[best] - step)) best = n;
  }
  return best;
}

function draw(chart, box) {
  const lines = chart.lines.filter((line) => !hidden.has(line.method) && !line.out);
  const width = Math.max(box.clientWidth, 240), height = 230;
  const edge = { left: 52, right: 10, top: 10, bottom: 34 };
  const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height, tabindex: 0, role: "img" });
  picture.setAttribute("aria-label", `${chart.title} against steps, ${lines.length} lines`);
  box.replaceChildren(picture);
  const readout = box.parentElement.querySelector(".readout");
  readout.textContent = "";
  if (!lines.length) return;
  const xs = lines.flatMap((line) => line.x), ys = lines.flatMap((line) => line.y);
  let [x0, x1, y0, y1] = [0, Math.max(...xs, 1), Math.min(...ys), Math.max(...ys)];
  const log = y0 > 0 && y1 / y0 > 20;
  const bend = log ? Math.log10 : (value) => value;
  const slack = (bend(y1) - bend(y0)) * 0.05 || Math.abs(bend(y1)) * 0.01 || 1;
  const [low, high] = [bend(y0) - slack, bend(y1) + slack];
  const px = (x) => edge.left + ((x - x0) / (x1 - x0)) * (width - edge.left - edge.right);
  const py = (y) => height - edge.bottom - ((bend(y) - low) / (high - low)) * (height - edge.top - edge.bottom);
  const marks = log ? decades(10 ** low, 10 ** high) : ticks(low, high, 5);
  for (const y of marks) {
    picture.append(svg("line", { class: "rule", x1: edge.left, x2: width - edge.right, y1: py(y), y2: py(y) }));
    picture.append(svg("text", { x: edge.left - 6, y: py(y) + 4, "text-anchor": "end" }, brief(y)));
  }
  for (const x of ticks(x0, x1, Math.max(2, Math.floor(width / 110)))) {
    picture.append(svg("line", { class: "tick", x1: px(x), x2: px(x), y1: height - edge.bottom, y2: height - edge.bottom + 4 }));
    const anchor = px(x) > width - 30 ? "end" : "middle";
    picture.append(svg("text", { x: px(x), y: height - edge.bottom + 17, "text-anchor": anchor }, brief(x)));
  }
  picture.append(svg("line", { class: "axis", x1: edge.left, x2: width - edge.right, y1: height - edge.bottom, y2: height - edge.bottom }));
  picture.append(svg("text", { x: (edge.left + width - edge.right) / 2, y: height - 3, "text-anchor": "middle" }, log ? "step (values on a logarithmic scale)" : "step"));
  for (const line of lines) {
    const points = line.x.map((x, n) => `${px(x).toFixed(1)},${py(line.y[n]).toFixed(1)}`).join(" ");
    picture.append(svg("polyline", { class: `line hue-${line.method % HUES}${lines.length > MANY ? " thin" : ""}`, points, "stroke-dasharray": DASHES[Math.floor(line.method / HUES) % 3] }));
    if (line.x.length <= 16 && lines.length <= MANY) {
      line.x.forEach((x, n) => picture.append(svg("circle", { class: `dot hue-${line.method % HUES}`, cx: px(x), cy: py(line.y[n]), r: 2.5 })));
    }
  }
  const cursor = svg("line", { class: "cursor", y1: edge.top, y2: height - edge.bottom, visibility: "hidden" });
  picture.append(cursor);
  const longest = lines.reduce((a, b) => (b.x.length > a.x.length ? b : a));
  let at = -1;
  const read = (step) => {
    at = nearest(longest, step);
    cursor.setAttribute("visibility", "visible");
    cursor.setAttribute("x1", px(longest.x[at]));
    cursor.setAttribute("x2", px(longest.x[at]));
    const methods = lines.length > MANY ? [...new Set(lines.map((line) => line.method))] : lines;
    const told = methods.slice(0, MANY).map((one) => {
      const of = lines.length > MANY ? lines.filter((line) => line.method === one) : [one];
      const centre = of.reduce((sum, line) => sum + line.y[nearest(line, longest.x[at])], 0) / of.length;
      const value = make("span", {}, make("i", { className: `swatch hue-${of[0].method % HUES}` }), brief(centre));
      value.title = of.length > 1 ? `mean of ${of.length}` : of[0].label;
      return value;
    });
    readout.replaceChildren(`step ${longest.x[at]}`, ...told);
  };
  picture.addEventListener("pointermove", (event) => {
    const left = picture.getBoundingClientRect().left;
    read(x0 + ((event.clientX - left - edge.left) / (width - edge.left - edge.right)) * (x1 - x0));
  });
  picture.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!move) return;
    event.preventDefault();
    read(longest.x[Math.min(Math.max(at + move, 0), longest.x.length - 1)]);
  });
}

const boxes = data.charts.map((chart) => {
  const box = make("div", { className: "drawing" });
  $("charts").append(make("figure", {}, make("figcaption", {}, chart.title), box, make("p", { className: "readout" })));
  return [chart, box];
});
const redraw = () => boxes.forEach(([chart, box]) => draw(chart, box));

function legend(names) {
  hidden.clear();
  const shown = boxes.map(([chart]) => chart.lines.filter((line) => !line.out));
  const drawn = [...new Set(shown.flat().map((line) => line.method))];
  const buttons = drawn.sort((a, b) => a - b).map((method) => {
    const runs = Math.max(...shown.map((lines) => lines.filter((line) => line.method === method).length));
    const button = make("button", { type: "button" });
    const sample = svg("svg", { width: 26, height: 10, "aria-hidden": "true" });
    sample.append(svg("line", { class: `line hue-${method % HUES}`, x1: 1, x2: 25, y1: 5, y2: 5, "stroke-dasharray": DASHES[Math.floor(method / HUES) % 3] }));
    button.append(sample, names[method] + (runs > 1 ? ` (${runs} trainings)` : ""));
    button.setAttribute("aria-pressed", "true");
    button.addEventListener("click", () => {
      if (!hidden.delete(method)) hidden.add(method);
      button.setAttribute("aria-pressed", String(!hidden.has(method)));
      redraw();
    });
    return button;
  });
  $("legend").replaceChildren(...buttons);
  redraw();
}

if ($("charts")) {
  if (!data.sweep) legend(data.methods);
  let width = $("charts").clientWidth;
  new ResizeObserver(() => {
    if ($("charts").clientWidth === width) return;
    width = $("charts").clientWidth;
    redraw();
  }).observe($("charts"));
}

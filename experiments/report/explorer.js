// The explorer: one image in all its versions, two of them under a divider, all of them in a grid.
const GAIN = 5;
const images = new Map();

function loaded(number) {
  if (!images.has(number)) {
    const image = new Image();
    image.src = data.pictures[number];
    images.set(number, image.decode().then(() => image));
  }
  return images.get(number);
}

function pixels(image) {
  const canvas = make("canvas", { width: image.naturalWidth, height: image.naturalHeight });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  return context.getImageData(0, 0, canvas.width, canvas.height);
}

async function paintError(canvas, clean, estimate) {
  const [a, b] = (await Promise.all([loaded(clean), loaded(estimate)])).map(pixels);
  canvas.width = a.width;
  canvas.height = a.height;
  if (a.width !== b.width || a.height !== b.height) return void (canvas.dataset.painted = "sizes differ");
  for (let n = 0; n < a.data.length; n++) {
    a.data[n] = n % 4 === 3 ? 255 : Math.min(GAIN * Math.abs(a.data[n] - b.data[n]), 255);
  }
  canvas.getContext("2d").putImageData(a, 0, 0);
  canvas.dataset.painted = "yes";
}

// A version is clean, noisy or a method's number; with e before it, the error of that.
function nameOf(version) {
  if (version.startsWith("e:")) return `error of ${nameOf(version.slice(2))} × ${GAIN}`;
  return /^\d+$/.test(version) ? data.methods[Number(version)] : version;
}

function versionsOf(shown) {
  const plain = ["clean", "noisy", ...data.methods.keys()].map(String).filter((version) => version in shown.versions);
  const errors = "clean" in shown.versions ? plain.filter((version) => version !== "clean").map((v) => `e:${v}`) : [];
  return [plain, errors];
}

function pictureOf(shown, version) {
  const error = version.startsWith("e:");
  const picture = make(error ? "canvas" : "img", { className: "picture", draggable: false });
  const label = `${shown.image}, ${nameOf(version)}`;
  if (error) {
    picture.setAttribute("role", "img");
    picture.setAttribute("aria-label", label);
    paintError(picture, shown.versions.clean, shown.versions[version.slice(2)]);
  } else {
    picture.alt = label;
    picture.src = data.pictures[shown.versions[version]];
  }
  picture.dataset.version = version;
  place(picture);
  return picture;
}

function fillSelect(select, entries, chosen) {
  select.replaceChildren(...entries.map(([value, text]) => make("option", { value, textContent: text })));
  select.value = entries.some(([value]) => value === chosen) ? chosen : entries[0]?.[0];
}

function explore() {
  let current = 0, share = 50, errors = false;
  let sides = { left: "noisy", right: null };
  const stage = $("stage"), divider = $("divider");
  const many = new Set(data.cases.map((shown) => shown.condition)).size > 1;
  const title = (shown) => (many ? `${shown.image} — ${shown.condition}` : shown.image);

  function list() {
    const words = $("find").value.toLowerCase().split(/\s+/);
    const found = [...data.cases.keys()].filter((n) => words.every((word) => title(data.cases[n]).toLowerCase().includes(word)));
    fillSelect($("image"), found.map((n) => [String(n), title(data.cases[n])]), String(current));
    return found;
  }

  function slide(percent) {
    share = within(percent, 0, 100);
    $("left-layer").style.clipPath = `inset(0 ${100 - share}% 0 0)`;
    divider.style.left = `${share}%`;
    divider.setAttribute("aria-valuenow", String(Math.round(share)));
    divider.setAttribute("aria-valuetext", `${Math.round(share)} % ${nameOf(sides.left)}, the rest ${nameOf(sides.right)}`);
  }

  function showSides() {
    const shown = data.cases[current];
    $("left-layer").replaceChildren(pictureOf(shown, sides.left));
    $("right-layer").replaceChildren(pictureOf(shown, sides.right));
    slide(share);
  }

  function showGrid() {
    const shown = data.cases[current];
    const [plain, wrong] = versionsOf(shown);
    const scores = new Map(shown.scores.map((line) => [line.version, line]));
    const versions = errors && wrong.length ? ["clean", ...wrong] : plain;
    $("grid").replaceChildren(...versions.map((version) => {
      const pane = make("div", { className: "pane", tabIndex: 0 }, make("div", { className: "layer" }, pictureOf(shown, version)));
      handle(pane);
      const line = scores.get(version.replace("e:", ""));
      const values = line && [line.psnr && line.psnr !== "–" && `${line.psnr} dB`, line.ssim && line.ssim !== "–" && line.ssim].filter(Boolean).join(" / ");
      const caption = make("figcaption", {}, make("b", {}, nameOf(version)), make("span", {}, values || ""));
      return make("figure", {}, pane, caption);
    }));
    $("grid-errors").disabled = !wrong.length;
    $("grid-pictures").setAttribute("aria-pressed", String(!errors));
    $("grid-errors").setAttribute("aria-pressed", String(errors));
  }

  function showScores() {
    const shown = data.cases[current];
    const columns = { psnr: "PSNR (dB)", ssim: "SSIM", lpips: "LPIPS", seconds: "seconds" };
    const keys = Object.keys(columns).filter((key) => shown.scores.some((line) => key in line));
    const head = make("tr", {}, make("th", {}, "method"), ...keys.map((key) => make("th", { className: "number" }, columns[key])));
    const body = shown.scores.map((line) => {
      const label = make("th", { scope: "row" }, line.label);
      if (line.note) label.append(make("small", {}, line.note));
      return make("tr", {}, label, ...keys.map((key) => make("td", { className: "number" }, line[key] ?? "–")));
    });
    $("scores").replaceChildren(make("thead", {}, head), make("tbody", {}, ...body));
    $("condition").textContent = `${shown.condition} · ${shown.size[1]} × ${shown.size[0]} pixels`;
  }

  function show(number) {
    current = number;
    const shown = data.cases[current];
    const [plain, wrong] = versionsOf(shown);
    const entries = [...plain, ...wrong].map((version) => [version, nameOf(version)]);
    const methods = plain.filter((version) => version !== "clean" && version !== "noisy");
    fillSelect($("left"), entries, sides.left);
    fillSelect($("right"), entries, sides.right ?? methods[0] ?? plain.at(-1));
    sides = { left: $("left").value, right: $("right").value };
    $("image").value = String(current);
    $("explorer").style.setProperty("--aspect", shown.size[1] / shown.size[0]);
    $("explorer-title").textContent = shown.image;
    showSides();
    showGrid();
    showScores();
  }

  function step(by) {
    const found = list();
    if (found.length) show(found.at((Math.max(found.indexOf(current), by > 0 ? -1 : 0) + by) % found.length));
    list();
  }

  handle(stage, {
    takes: (event) => view.z === 1 || Math.abs(inside(stage, event)[0] * 100 - share) * stage.clientWidth < 2400,
    move: (event) => slide(inside(stage, event)[0] * 100),
  });
  divider.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -10, PageUp: 10, Home: -100, End: 100 }[event.key];
    if (!by) return;
    event.preventDefault();
    event.stopPropagation();
    slide(Math.round(share) + by);
  });
  for (const side of ["left", "right"]) $(side).addEventListener("change", () => ((sides[side] = $(side).value), showSides()));
  $("find").addEventListener("input", () => {
    const found = list();
    if (found.length && !found.includes(current)) show(found[0]);
  });
  $("image").addEventListener("change", () => show(Number($("image").value)));
  $("previous").addEventListener("click", () => step(-1));
  $("next").addEventListener("click", () => step(1));
  $("zoom-in").addEventListener("click", () => zoom(1.5));
  $("zoom-out").addEventListener("click", () => zoom(1 / 1.5));
  $("zoom-reset").addEventListener("click", () => look(1, 0, 0));
  $("grid-pictures").addEventListener("click", () => ((errors = false), showGrid()));
  $("grid-errors").addEventListener("click", () => ((errors = true), showGrid()));
  document.addEventListener("keydown", (event) => {
    if (event.target.closest("input, select, textarea") || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "n") step(1);
    if (event.key === "p") step(-1);
  });
  list();
  show(0);
  look(1, 0, 0);
  return (number, version) => {
    $("find").value = "";
    list();
    if (version !== undefined) sides.right = version;
    show(number);
    $("explorer").scrollIntoView({ block: "start" });
    divider.focus({ preventScroll: true });
  };
}

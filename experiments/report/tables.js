// Tables that sort by their headers: numbers as numbers, what has no value last either way.
const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

function keyOf(row, column) {
  const cell = row.cells[column];
  const text = cell.textContent.trim();
  if (cell.dataset.value !== undefined) {
    const raw = cell.dataset.value;
    return raw === "inf" ? Infinity : raw === "-inf" ? -Infinity : Number(raw);
  }
  return text === "–" || text === "" ? null : text;
}

function compare(a, b) {
  if (typeof a === "number" && typeof b === "number") return a < b ? -1 : a > b ? 1 : 0;
  if (typeof a === "number") return -1;
  if (typeof b === "number") return 1;
  return a.localeCompare(b, undefined, { numeric: true });
}

function sortBy(header) {
  const table = header.closest("table");
  const column = header.cellIndex;
  const first = header.classList.contains("number") ? "descending" : "ascending";
  const other = first === "ascending" ? "descending" : "ascending";
  const order = header.getAttribute("aria-sort") === first ? other : first;
  for (const each of table.tHead.rows[0].cells) each.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", order);
  const sign = order === "ascending" ? 1 : -1;
  const rows = [...table.tBodies[0].rows].filter((row) => row.className !== "heading").map((row) => ({ row, key: keyOf(row, column) }));
  const reason = (key, numeric) => key === null || (numeric && typeof key === "string");
  const numeric = rows.some(({ key }) => typeof key === "number");
  rows.sort((a, b) => {
    const missing = reason(a.key, numeric) - reason(b.key, numeric);
    return missing || (reason(a.key, numeric) ? 0 : sign * compare(a.key, b.key));
  });
  table.tBodies[0].append(...rows.map(({ row }) => row));
  table.dispatchEvent(new Event("sorted"));
}

for (const button of document.querySelectorAll("table.sortable thead button")) {
  button.addEventListener("click", () => sortBy(button.closest("th")));
}

if ($("metrics")) {
  const choose = (metric) => {
    for (const button of $("metrics").children) {
      button.setAttribute("aria-pressed", String(button.dataset.metric === metric));
    }
    for (const box of document.querySelectorAll("#images .tall > [data-metric]")) box.hidden = box.dataset.metric !== metric;
  };
  for (const button of $("metrics").children) button.addEventListener("click", () => choose(button.dataset.metric));
  choose($("metrics").children[0].dataset.metric);
}


// A sweep's page, which loads itself again while it is followed and comes back as it was left.
const FIELDS = "#cells input, #cells select, #heat select, #colour, #image";

function remembered(key) {
  try {
    return JSON.parse(sessionStorage.getItem(key));
  } catch {
    return null; // no storage, or not ours
  }
}

function follow(update) {
  const key = `sweep ${location.pathname}`;
  const before = remembered(key);
  if (before) {
    for (const field of document.querySelectorAll(FIELDS)) {
      const value = before.fields[field.id];
      if (field.type === "checkbox") field.checked = value ?? true;
      else if ([...field.options].some((option) => option.value === value)) field.value = value;
    }
    const head = [...document.querySelectorAll("#cells thead th")].find((th) => th.textContent === before.sort?.column);
    while (head && head.getAttribute("aria-sort") !== before.sort.order) sortBy(head);
    $("image")?.dispatchEvent(new Event("change"));
    update();
    history.scrollRestoration = "manual";
    scrollTo({ top: before.top, behavior: "instant" });
  }
  addEventListener("pagehide", () => {
    const head = document.querySelector("#cells [aria-sort]");
    const fields = [...document.querySelectorAll(FIELDS)].map((f) => [f.id, f.type === "checkbox" ? f.checked : f.value]);
    const sort = head && { column: head.textContent, order: head.getAttribute("aria-sort") };
    try {
      sessionStorage.setItem(key, JSON.stringify({ top: scrollY, fields: Object.fromEntries(fields), sort, paused }));
    } catch {} // then it comes back as new
  });
  let paused = before?.paused ?? false;
  if (!$("following")) return;
  let held = false;
  for (const [event, is] of [["pointerdown", true], ["pointerup", false], ["pointercancel", false]]) addEventListener(event, () => (held = is));
  const show = () => ($("following").textContent = paused ? "paused: go on following" : "following: pause");
  $("following").addEventListener("click", () => ((paused = !paused), show()));
  show();
  setInterval(() => {
    const busy = paused || held || document.hidden || document.activeElement.closest("select, input[type=search]");
    if (!busy) location.reload();
  }, data.sweep.reload);
}

if (data.sweep) follow(showSweep(data.sweep));

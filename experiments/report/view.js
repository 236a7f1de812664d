// One view on all pictures: zoom z, and the part of the picture (x, y in [0, 1]) at the upper left corner.
const view = { z: 1, x: 0, y: 0 };
const DEEPEST = 32;
const within = (value, low, high) => Math.min(Math.max(value, low), high);

function look(z, x, y) {
  view.z = within(z, 1, DEEPEST);
  view.x = within(x, 0, 1 - 1 / view.z);
  view.y = within(y, 0, 1 - 1 / view.z);
  for (const picture of document.querySelectorAll(".pane .picture")) place(picture);
  $("explorer").classList.toggle("zoomed", view.z > 1);
  $("zoom").textContent = `${+view.z.toFixed(1)}×`;
}

function place(picture) {
  const { z, x, y } = view;
  picture.style.transform = `translate(${-100 * z * x}%, ${-100 * z * y}%) scale(${z})`;
}

// fx, fy: the point of the pane, in [0, 1], that stays where it is
function zoom(factor, fx = 0.5, fy = 0.5) {
  const z = within(view.z * factor, 1, DEEPEST);
  look(z, view.x + fx / view.z - fx / z, view.y + fy / view.z - fy / z);
}

function inside(pane, event) {
  const box = pane.getBoundingClientRect();
  return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
}

function handle(pane, slider = null) {
  const pointers = new Map();
  let sliding = false;
  pane.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    pane.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, inside(pane, event));
    sliding = slider !== null && pointers.size === 1 && slider.takes(event);
    if (sliding) slider.move(event);
    if (!sliding) pane.focus({ preventScroll: true });
    event.preventDefault();
  });
  pane.addEventListener("pointermove", (event) => {
    if (!pointers.has(event.pointerId)) return;
    const before = [...pointers.values()];
    const [fx, fy] = inside(pane, event);
    const [ox, oy] = pointers.get(event.pointerId);
    pointers.set(event.pointerId, [fx, fy]);
    if (sliding && pointers.size === 1) return slider.move(event);
    look(view.z, view.x - (fx - ox) / view.z / pointers.size, view.y - (fy - oy) / view.z / pointers.size);
    if (pointers.size === 2) {
      const apart = ([[ax, ay], [bx, by]]) => Math.hypot(ax - bx, ay - by) || 1e-3;
      const after = [...pointers.values()];
      zoom(apart(after) / apart(before), (after[0][0] + after[1][0]) / 2, (after[0][1] + after[1][1]) / 2);
    }
  });
  for (const end of ["pointerup", "pointercancel"]) {
    pane.addEventListener(end, (event) => pointers.delete(event.pointerId));
  }
  pane.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && !document.activeElement.closest(".pane")) return; // the page scrolls
    event.preventDefault();
    zoom(Math.exp(-event.deltaY * (event.ctrlKey ? 0.01 : 0.002)), ...inside(pane, event));
  }, { passive: false });
  pane.addEventListener("dblclick", (event) => (view.z > 1 ? look(1, 0, 0) : zoom(4, ...inside(pane, event))));
  pane.addEventListener("keydown", (event) => {
    const step = 0.1 / view.z;
    const acts = {
      "+": () => zoom(1.5), "=": () => zoom(1.5), "-": () => zoom(1 / 1.5), 0: () => look(1, 0, 0),
      ArrowLeft: () => look(view.z, view.x - step, view.y), ArrowRight: () => look(view.z, view.x + step, view.y),
      ArrowUp: () => look(view.z, view.x, view.y - step), ArrowDown: () => look(view.z, view.x, view.y + step),
    };
    if (!acts[event.key] || event.ctrlKey || event.metaKey || (event.key.startsWith("Arrow") && view.z === 1)) return;
    event.preventDefault();
    acts[event.key]();
  });
}


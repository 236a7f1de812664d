// Thumbnails of the best and the worst images; a click opens them, and those of the last table, in the explorer.
const places = new Map(data.cases.map((shown, number) => [shown.case, number]));

function thumbnail(entry, method, open) {
  const number = places.get(entry.case);
  const picture = data.cases[number]?.versions[method];
  const caption = [make("b", {}, entry.image), make("span", {}, `${entry.psnr} dB`)];
  if (picture === undefined) return make("div", { className: "thumb absent" }, make("span", {}, "not embedded"), ...caption);
  const image = make("img", { src: data.pictures[picture], alt: "" });
  const button = make("button", { type: "button", className: "thumb" }, image, ...caption);
  button.addEventListener("click", () => open(number, method));
  return button;
}

if ($("explorer")) {
  const open = explore();
  if ($("extremes")) {
    const conditions = data.extremes.filter((part) => part.leader !== null);
    const choice = () => conditions[Number($("extremes-condition").value)];
    const show = () => {
      const { best, worst } = choice().methods[$("extremes-method").value];
      $("best").replaceChildren(...best.map((entry) => thumbnail(entry, $("extremes-method").value, open)));
      $("worst").replaceChildren(...worst.map((entry) => thumbnail(entry, $("extremes-method").value, open)));
      $("worst").parentElement.hidden = !worst.length;
    };
    const methods = () => {
      const chosen = $("extremes-method").value || String(choice().leader);
      fillSelect($("extremes-method"), Object.keys(choice().methods).map((key) => [key, data.methods[key]]), chosen);
      show();
    };
    fillSelect($("extremes-condition"), conditions.map((part, n) => [String(n), part.condition]), "0");
    $("extremes-condition").addEventListener("change", methods);
    $("extremes-method").addEventListener("change", show);
    methods();
  }
  for (const button of document.querySelectorAll("button.open")) {
    const number = places.get(Number(button.dataset.case));
    if (number === undefined) button.disabled = true;
    else button.addEventListener("click", () => open(number));
  }
} else {
  for (const button of document.querySelectorAll("button.open")) button.disabled = true;
}

"use strict";
// Without this the page is whole, but for sliders, sorting and the filter.

function make(tag, values, ...inside) {
  const made = Object.assign(document.createElement(tag), values);
  made.append(...inside);
  return made;
}

// A slider for each pair, made when it comes near: the rendering lies over the photograph, and is cut off left of the line.
function slider(article) {
  const before = article.querySelector("img[data-role=before]");
  const after = article.querySelector("img[data-role=after]");
  if (!before || !after) return;
  const under = before.cloneNode(), over = after.cloneNode();
  under.alt = over.alt = "";
  under.width = over.width;
  under.height = over.height;
  const stack = make("div", { className: "stack" }, under, over);
  const label = before.alt + " | " + after.alt;
  const range = make("input", { type: "range", min: 0, max: 100, value: 50, step: 1 });
  range.setAttribute("aria-label", label);
  const cut = () => {
    over.style.clipPath = `inset(0 0 0 ${range.value}%)`;
    stack.style.setProperty("--cut", `${range.value}%`);
  };
  range.addEventListener("input", cut);
  const drag = (event) => {
    if (event.type === "pointermove" && !event.buttons) return;
    const box = stack.getBoundingClientRect();
    range.value = (100 * (event.clientX - box.left)) / box.width;
    cut();
  };
  stack.addEventListener("pointerdown", drag);
  stack.addEventListener("pointermove", drag);
  stack.addEventListener("dragstart", (event) => event.preventDefault());
  cut();
  const words = before.closest("figure").querySelector("figcaption").textContent + " | " + after.closest("figure").querySelector("figcaption").textContent;
  after.closest("figure").after(make("figure", { className: "slider" }, stack, range, make("figcaption", { textContent: words })));
}

const articles = [...document.querySelectorAll("article")];
const near = new IntersectionObserver((seen) => {
  for (const { target } of seen.filter((one) => one.isIntersecting)) {
    near.unobserve(target);
    slider(target);
  }
}, { rootMargin: "800px" });
articles.forEach((article) => near.observe(article));

// The table: each heading sorts, numbers as numbers; what has none comes last, either way. The entries follow.
const table = document.getElementById("all"), body = table.tBodies[0], entries = document.getElementById("entries");
const rows = [...body.rows], byAnchor = new Map(articles.map((article) => [article.id, article]));
const names = new Intl.Collator(undefined, { numeric: true });

function key(row, column) {
  const cell = row.cells[column], heading = table.tHead.rows[0].cells[column];
  if (!heading.dataset.figure) return cell.textContent;
  return cell.dataset.value === undefined ? null : Number(cell.dataset.value);
}

function compare(a, b) {
  return typeof a === "number" ? a - b : names.compare(a, b);
}

function sort(column, down) {
  const keyed = rows.map((row) => [key(row, column), row]);
  keyed.sort(([a], [b]) => (a === null || b === null ? (a === null) - (b === null) : (down ? -1 : 1) * compare(a, b)));
  body.append(...keyed.map(([, row]) => row));
  entries.append(...keyed.map(([, row]) => byAnchor.get(row.dataset.anchor)).filter(Boolean));
}

[...table.tHead.rows[0].cells].forEach((heading, column, all) => {
  const button = make("button", { type: "button", textContent: heading.textContent });
  heading.replaceChildren(button);
  button.addEventListener("click", () => {
    const down = heading.ariaSort === "ascending";
    all.forEach((other) => other.removeAttribute("aria-sort"));
    heading.setAttribute("aria-sort", down ? "descending" : "ascending");
    sort(column, down);
  });
});

// The filter: a part of a name or state, or a comparison such as psnr<25.
const columns = new Map([...table.tHead.rows[0].cells].map((heading, i) => [(heading.dataset.figure || heading.textContent).toLowerCase(), i]));

function fits(row, wanted) {
  const found = wanted.match(/^(\w+)\s*(<=|>=|<|>|=)\s*(-?[\d.]+)$/);
  if (found && columns.has(found[1])) {
    const value = key(row, columns.get(found[1])), bound = Number(found[3]);
    if (typeof value !== "number") return false;
    return { "<": value < bound, ">": value > bound, "<=": value <= bound, ">=": value >= bound, "=": value === bound }[found[2]];
  }
  return (row.cells[0].textContent + " " + row.cells[1].textContent).toLowerCase().includes(wanted);
}

const said = make("span", { className: "by" });
said.setAttribute("aria-live", "polite");
const field = make("input", { type: "search", id: "filter", placeholder: "a name, failed, psnr<25" });
field.addEventListener("input", () => {
  const wanted = field.value.trim().toLowerCase();
  let count = 0;
  for (const row of rows) {
    row.hidden = !fits(row, wanted);
    count += !row.hidden;
    const article = byAnchor.get(row.dataset.anchor);
    if (article) article.hidden = row.hidden;
  }
  said.textContent = wanted ? `${count} of ${rows.length}` : "";
});
table.parentElement.before(make("div", { className: "tools" }, make("label", {}, "Show ", field), said));

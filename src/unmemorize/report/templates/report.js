const table = document.getElementById("prompts");
const body = table.tBodies[0];
const rows = Array.from(body.rows);
const search = document.querySelector(".search");
const [text, only] = search.querySelectorAll("input");
const heads = Array.from(table.tHead.rows[0].cells);
const MEMORIZED = heads.findIndex((head) => head.textContent === "memorized");

function sortBy(head) {
  const column = heads.indexOf(head);
  const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
  const value = (row) => row.cells[column].textContent;
  const compare = "number" in head.dataset
    ? (a, b) => (value(a) === "") - (value(b) === "") || sign * (value(a) - value(b))
    : (a, b) => sign * value(a).localeCompare(value(b));
  heads.forEach((other) => other.removeAttribute("aria-sort"));
  head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
  body.append(...rows.sort(compare));
}

function filter() {
  const wanted = text.value.toLowerCase();
  let shown = 0;
  for (const row of rows) {
    row.hidden = !row.textContent.toLowerCase().includes(wanted) || (only.checked && row.cells[MEMORIZED].textContent !== "yes");
    shown += !row.hidden;
  }
  search.querySelector("[role=status]").textContent = `${shown} of ${rows.length}`;
}

for (const head of heads) {
  head.tabIndex = 0;
  head.setAttribute("role", "button");
  head.addEventListener("click", () => sortBy(head));
  head.addEventListener("keydown", (event) => event.key === "Enter" && sortBy(head));
}
search.addEventListener("input", filter);
search.hidden = false;
filter();

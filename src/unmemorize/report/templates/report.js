// The table of all prompts: a click on a heading sorts it, the search field filters it.
const table = document.getElementById("prompts");
const body = table.tBodies[0];
const rows = Array.from(body.rows);
const headings = Array.from(table.tHead.rows[0].cells);
const memorizedColumn = headings.findIndex((heading) => heading.textContent === "memorized");
const search = document.querySelector(".search");
const [textField, memorizedOnly] = search.querySelectorAll("input");
const shownCount = search.querySelector("[role=status]");

function compareBy(heading) {
  const column = headings.indexOf(heading);
  const value = (row) => row.cells[column].textContent;
  const isEmpty = (row) => value(row) === "";
  if (!("number" in heading.dataset)) {
    return (a, b, sign) => sign * value(a).localeCompare(value(b));
  }
  // unknown numbers come last in either order
  return (a, b, sign) => isEmpty(a) - isEmpty(b) || sign * (value(a) - value(b));
}

function sortBy(heading) {
  const compare = compareBy(heading);
  const sign = heading.getAttribute("aria-sort") === "ascending" ? -1 : 1;
  for (const other of headings) {
    other.removeAttribute("aria-sort");
  }
  heading.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
  body.append(...rows.sort((a, b) => compare(a, b, sign)));
}

function isWanted(row) {
  if (memorizedOnly.checked && row.cells[memorizedColumn].textContent !== "yes") {
    return false;
  }
  return row.textContent.toLowerCase().includes(textField.value.toLowerCase());
}

function filter() {
  for (const row of rows) {
    row.hidden = !isWanted(row);
  }
  shownCount.textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length}`;
}

for (const heading of headings) {
  heading.tabIndex = 0;
  heading.setAttribute("role", "button");
  heading.addEventListener("click", () => sortBy(heading));
  heading.addEventListener("keydown", (event) => event.key === "Enter" && sortBy(heading));
}
search.addEventListener("input", filter);
search.hidden = false;
filter();

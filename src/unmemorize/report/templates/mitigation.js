// Details are open in print. Browsers that know ::details-content need only the style sheet.
const closed = () => document.querySelectorAll("details:not([open])");
let opened = [];
addEventListener("beforeprint", () => {
  opened = Array.from(closed());
  for (const each of opened) {
    each.open = true;
  }
});
addEventListener("afterprint", () => {
  for (const each of opened) {
    each.open = false;
  }
});

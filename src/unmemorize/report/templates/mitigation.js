// Where scripts run, the content of <noscript> is one piece of text. The pictures of details are in
// there until somebody opens them, which keeps a page of hundreds of prompts fast.
function fill(details) {
  for (const unread of details.querySelectorAll("noscript")) {
    unread.outerHTML = unread.textContent;
  }
}
document.addEventListener("toggle", (event) => fill(event.target), true);

// Details are open in print. Browsers that know ::details-content need only the style sheet.
let opened = [];
addEventListener("beforeprint", () => {
  opened = Array.from(document.querySelectorAll("details:not([open])"));
  for (const details of opened) {
    details.open = true;
    fill(details);
  }
});
addEventListener("afterprint", () => {
  for (const details of opened) {
    details.open = false;
  }
});

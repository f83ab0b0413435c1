/* What the console's pages need in the browser beside the theme: confirm, copy, live parts, keyboard. */
"use strict";

/* Live parts are not replaced under somebody's focus or in a hidden tab. */
window.zantaraMayRefresh = function (...ids) {
  const parts = ids.map((id) => document.getElementById(id));
  return !document.hidden && parts.every((part) => part !== null && !part.contains(document.activeElement));
};

document.addEventListener("submit", (event) => {
  const question = event.target.dataset.confirm;
  if (question && !window.confirm(question)) {
    event.preventDefault();
  }
});

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (!button) {
    return;
  }
  const source = document.getElementById(button.dataset.copy);
  const answer = button.parentElement.querySelector("[data-copied]");
  try {
    await navigator.clipboard.writeText(source.textContent);
    answer.textContent = "Copied.";
  } catch {
    window.getSelection().selectAllChildren(source);
    answer.textContent = "Selected: press Ctrl+C.";
  }
});

for (const [name, lost] of [["htmx:sendError", true], ["htmx:responseError", true], ["htmx:afterOnLoad", false]]) {
  document.addEventListener(name, (event) => {
    if (event.target.classList.contains("zt-live")) {
      event.target.classList.toggle("zt-is-lost", lost);
    }
  });
}

/* The theme's clickable spans are reached and worked by keyboard too. */
document.addEventListener("DOMContentLoaded", () => {
  for (const element of document.querySelectorAll("[x-on\\:click]")) {
    const isControl = element.matches("a[href], button, input, select, textarea, label, [tabindex]");
    const isSmall = element.matches("span, div, a") && !element.querySelector("a[href], button, input, form");
    if (!isControl && isSmall) {
      element.setAttribute("tabindex", "0");
      element.setAttribute("role", "button");
      element.addEventListener("keydown", (event) => {
        if (event.target === element && (event.key === "Enter" || event.key === " ")) {
          event.preventDefault();
          element.click();
        }
      });
    }
  }
});

/* Enter in the palette takes the first result where none was chosen, and waits where there is none yet. */
document.addEventListener(
  "keydown",
  (event) => {
    if (event.target.id !== "search-input-command" || event.key !== "Enter") {
      return;
    }
    const palette = window.Alpine.$data(event.target);
    if (palette.currentIndex >= 1) {
      return;
    }
    if (palette.totalItems > 0) {
      palette.currentIndex = 1;
    } else {
      event.preventDefault();
      event.stopPropagation();
    }
  },
  true,
);

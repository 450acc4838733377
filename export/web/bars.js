// Ten rows, one a class: the digit, how sure the network is of it, and the button by which one says that it is this.

import { percent } from "./chart.js";
import { argmax } from "./learner.js";

export class Bars {
  /** list: an ordered list element; chosen(label) is called on a click. */
  constructor(list, chosen) {
    this.rows = Array.from({ length: 10 }, (_, label) => row(label, chosen));
    list.replaceChildren(...this.rows.map(({ item }) => item));
    this.show(null);
  }

  /** Show probabilities, or null for none. */
  show(answer, told = null) {
    const best = answer && argmax(answer);
    this.rows.forEach(({ button, fill, value }, label) => {
      const share = answer ? answer[label] : 0;
      fill.style.inlineSize = `${100 * share}%`;
      value.textContent = answer ? percent(share) : "";
      button.classList.toggle("best", label === best);
      button.classList.toggle("told", label === told);
      button.setAttribute("aria-label", `It is a ${label}${answer ? `; taken for one with ${percent(share)}` : ""}`);
    });
  }
}

function row(label, chosen) {
  const [item, button, digit, track, fill, value] = ["li", "button", "b", "span", "i", "span"].map((name) =>
    document.createElement(name),
  );
  button.type = "button";
  button.dataset.label = label;
  digit.textContent = label;
  track.className = "track";
  value.className = "value";
  track.append(fill);
  button.append(digit, track, value);
  button.addEventListener("click", () => chosen(label));
  item.append(button);
  return { item, button, fill, value };
}

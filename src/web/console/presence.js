// Who is present in a topic, live.

import { h } from "./dom.js";
import { presence } from "../web/presence.js";

export function show(console, topic, signal) {
  const told = h("p", { role: "status" }, "…");
  const list = h("ul", {});
  const followed = presence(console.api.leftoff, topic);
  const draw = () => {
    const { members } = followed;
    told.textContent = members.length
      ? `${members.length} are present:`
      : "Nobody is present: no reader has named a member.";
    list.replaceChildren(
      ...members.map(({ id, info }) => {
        const more = info && Object.keys(info).length ? JSON.stringify(info) : "";
        return h(
          "li",
          {},
          h("strong", {}, id),
          more && h("span", { class: "quiet mono" }, ` ${more}`),
        );
      }),
    );
  };
  followed.addEventListener("change", draw);
  signal.addEventListener("abort", () => followed.close());
  return [told, list];
}

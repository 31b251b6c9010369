// Who is present in a topic, live.

import { topicPath } from "./api.js";
import { fail, h } from "./dom.js";
import { presence } from "../web/presence.js";

export function show(console, topic, signal) {
  const told = h("p", { role: "status" }, "…");
  const list = h("ul", {});
  const followed = presence(console.api.leftoff, topic);
  const draw = () => {
    const { members } = followed;
    told.textContent = members.length
      ? `${members.length} ${members.length === 1 ? "is" : "are"} present:`
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
  followed.addEventListener("refused", ({ detail }) => fail(told, detail));
  // Whoever may not follow the topic is not told of anything there.
  const looked = console.api.get(topicPath(topic, "/presence"));
  looked.catch((problem) => problem.status === 403 && fail(told, problem));
  signal.addEventListener("abort", () => followed.close());
  return [told, list];
}

// Who is present in a topic, live.

import { topicPath } from "./api.js";
import { count, fail, h } from "./dom.js";
import { presence } from "../web/presence.js";

/** The members that are shown at most, and the time between two changes of the list. */
const MAX_MEMBERS = 200;
const DRAW_MS = 200;

export function show(console, topic, signal) {
  const told = h("p", { role: "status" }, "…");
  const list = h("ul", {});
  const followed = presence(console.api.leftoff, topic);
  let timer;
  const draw = () => {
    timer = undefined;
    const { members } = followed;
    const many = count(members.length);
    const part = members.length > MAX_MEMBERS ? `; ${MAX_MEMBERS} are shown` : "";
    told.textContent = members.length
      ? `${many} ${members.length === 1 ? "is" : "are"} present${part}:`
      : "Nobody is present: no reader has named a member.";
    list.replaceChildren(
      ...members.slice(0, MAX_MEMBERS).map(({ id, info }) => {
        const more = Object.keys(info ?? {}).length > 0 && ` ${JSON.stringify(info)}`;
        return h("li", {}, h("strong", {}, id), h("span", { class: "quiet mono" }, more));
      }),
    );
  };
  followed.addEventListener("change", () => (timer ??= setTimeout(draw, DRAW_MS)));
  followed.addEventListener("refused", ({ detail }) => fail(told, detail));
  // Whoever may not follow the topic is not told of anything there.
  const looked = console.api.get(topicPath(topic, "/presence"));
  looked.catch((problem) => problem.status === 403 && fail(told, problem));
  signal.addEventListener("abort", () => {
    clearTimeout(timer);
    followed.close();
  });
  return [told, list];
}

// What the console asks the broker for, with the credential of whoever logged in, which stays in the
// memory of this page.

import { connect, Problem } from "../web/leftoff.js";

/** The broker that serves the page, wherever it is mounted. */
export const BASE = new URL("..", import.meta.url).href;

/** The time after which an answer does not come any more. */
const PATIENCE_MS = 30_000;

export class Api {
  #credential;
  #client;

  /** Without a credential the browser's cookie counts, if it has one. */
  constructor(credential, onstate) {
    this.#credential = credential;
    this.onstate = onstate;
  }

  /** The client, which connects when it is used first: by whoever is known to the broker. */
  get leftoff() {
    if (!this.#client) {
      const token = this.#credential && (() => this.#credential);
      // Tabs may have other credentials, so that they share nothing.
      this.#client = connect({ url: BASE, token, shared: false });
      this.#client.onstate = this.onstate;
    }
    return this.#client;
  }

  get hasCredential() {
    return Boolean(this.#credential);
  }

  get = (path, patienceMs) => this.send("GET", path, undefined, patienceMs);

  async send(method, path, body, patienceMs = PATIENCE_MS) {
    const answer = await this.fetch(path, {
      method,
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(body),
      signal: AbortSignal.timeout(patienceMs),
    });
    return answer.status === 204 ? null : answer.json();
  }

  /** Sends a request whose answer is more than JSON. Rejects with a `Problem`. */
  async fetch(path, options = {}) {
    const headers = { Accept: "application/json", ...options.headers };
    if (this.#credential) {
      headers.Authorization = `Bearer ${this.#credential}`;
    }
    const url = new URL(path.replace(/^\//, ""), BASE);
    let answer;
    try {
      answer = await fetch(url, { ...options, headers });
    } catch (error) {
      throw new Problem({ detail: `no answer: ${error.message}` });
    }
    if (!answer.ok) {
      throw new Problem({ ...(await answer.json().catch(() => ({}))), status: answer.status });
    }
    return answer;
  }

  /** As `get`, but numbers keep each of their digits, as far as the browser can. */
  async exact(path) {
    const text = await (await this.fetch(path)).text();
    return JSON.parse(text, (_, value, context) => {
      const isChanged = typeof value === "number" && context && String(value) !== context.source;
      return isChanged && JSON.rawJSON ? JSON.rawJSON(context.source) : value;
    });
  }

  close() {
    this.#client?.close();
  }
}

/** The path of a topic, or of something of it. */
export const topicPath = (name, rest = "") => `/v1/topics/${encodeURIComponent(name)}${rest}`;

/** Returns `?a=b&…` of what is neither missing nor empty; a list is repeated. */
export function query(values) {
  const all = new URLSearchParams();
  for (const [name, value] of Object.entries(values)) {
    for (const one of [value].flat()) {
      if (one != null && one !== "") {
        all.append(name, one);
      }
    }
  }
  const text = String(all);
  return text && `?${text}`;
}

// What people write in forms about events: headers, and the filters that readers have.

/** Returns the headers in a text with one on each line. */
export function headersOf(text) {
  const lines = text.split("\n").filter((line) => line.trim());
  const pairs = lines.map((line) => {
    const at = line.indexOf(":");
    if (at < 1) {
      throw new Error(`"${line}" is no header: write name: value.`);
    }
    return [line.slice(0, at).trim(), line.slice(at + 1).trim()];
  });
  return Object.fromEntries(pairs);
}

const words = (text) =>
  text
    .split(",")
    .map((it) => it.trim())
    .filter(Boolean);

/** Returns the filter of a form: `asked` as a query has it, and `own` as a subscription has it. */
export function filterOf({ type = "", key = "", key_prefix = "", header = "" }) {
  const [types, keys, keyPrefixes] = [type, key, key_prefix].map(words);
  const headers = headersOf(header);
  const pairs = Object.entries(headers).map(([name, value]) => `${name}:${value}`);
  const isEmpty = [types, keys, keyPrefixes, pairs].every((list) => !list.length);
  return {
    asked: { type: types, key: keys, key_prefix: keyPrefixes, header: pairs },
    own: isEmpty ? undefined : { types, keys, keyPrefixes, headers },
  };
}

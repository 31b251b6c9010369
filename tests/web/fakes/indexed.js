// IndexedDB, as far as the client uses it: one store of texts.

/** Answers a request later, as a database does. */
function answered(clock, run) {
  const request = {};
  clock.set(() => {
    try {
      request.result = run(request);
      request.onsuccess?.();
    } catch (error) {
      request.error = error;
      request.onerror?.();
    }
  }, 1);
  return request;
}

/** Returns `indexedDB` of an origin. */
export function indexedDatabases(clock) {
  const stores = new Map();
  const database = {
    createObjectStore: (name) => stores.set(name, new Map()),
    transaction: () => ({
      objectStore(name) {
        const store = stores.get(name);
        return {
          get: (key) => answered(clock, () => store.get(key)),
          put: (value, key) => answered(clock, () => void store.set(key, value)),
        };
      },
    }),
  };
  return {
    open: () =>
      answered(clock, (request) => {
        request.result = database;
        stores.size === 0 && request.onupgradeneeded?.();
        return database;
      }),
  };
}

// The packages of npm that tests/clients/install has installed, in their pinned versions.

import { createRequire } from "node:module";

/** The variable with which a test fails if the packages are not installed. */
const REQUIRED = "REQUIRE_CLIENTS";

const installed = createRequire(new URL("../../../target/clients/", import.meta.url));

/** Returns a package. Without it the test is skipped, or fails where packages are required. */
export function installedPackage(name, test) {
  try {
    return installed(name);
  } catch (error) {
    if (process.env[REQUIRED] !== undefined || error.code !== "MODULE_NOT_FOUND") {
      throw error;
    }
    test.skip(`${name} is not in target/clients, run tests/clients/install`);
    return undefined;
  }
}

/** Returns the path of a file of a package, as `installedPackage` returns the package. */
export function installedFile(path, test) {
  return installedPackage("typescript/package.json", test) && installed.resolve(path);
}

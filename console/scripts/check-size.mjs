// Fails the build when the page outgrows what is embedded in the binary without regret.
import { readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { fileURLToPath } from "node:url";

const LIMIT_BYTES = 250 * 1024;
const dist = fileURLToPath(new URL("../dist", import.meta.url));

function files(folder) {
  return readdirSync(folder).flatMap((name) => {
    const path = join(folder, name);
    return statSync(path).isDirectory() ? files(path) : [path];
  });
}

const total = files(dist).reduce((sum, path) => sum + gzipSync(readFileSync(path)).length, 0);
const text = `${(total / 1024).toFixed(1)} KiB gzipped of ${LIMIT_BYTES / 1024} KiB allowed`;
if (total > LIMIT_BYTES) {
  console.error(`dist is too large: ${text}`);
  process.exit(1);
}
console.log(`dist: ${text}`);

// The lock file must name no registry: everyone installs from the one they have configured.
import { readFileSync } from "node:fs";

const lock = readFileSync(new URL("../package-lock.json", import.meta.url), "utf8");
const hosts = [...lock.matchAll(/"resolved":\s*"([^"]+)"/g)].map((match) => match[1]);
if (hosts.length > 0) {
  console.error(`package-lock.json names ${hosts.length} addresses, first ${hosts[0]}; keep omit-lockfile-registry-resolved=true in .npmrc and run npm install again`);
  process.exit(1);
}

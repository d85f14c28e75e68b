import { readdirSync, readFileSync } from "node:fs";
import { defineConfig } from "vitest/config";
import type { Plugin } from "vite";

/**
 * The page talks to its own origin and to nothing else; the browser is told so.
 * Only in the built page: the development server injects inline styles for hot reload.
 */
function contentSecurityPolicy(): Plugin {
  const policy = [
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    "font-src 'self'",
    "img-src 'self' data:",
    "connect-src 'self'",
    "base-uri 'none'",
    "form-action 'none'",
  ].join("; ");
  return {
    name: "content-security-policy",
    apply: "build",
    transformIndexHtml: () => [
      { tag: "meta", attrs: { "http-equiv": "Content-Security-Policy", content: policy }, injectTo: "head-prepend" },
    ],
  };
}

const api = process.env["YANTRA_URL"] ?? "http://127.0.0.1:8088";

/** Third-party code and type in the page; their licences travel with it. */
const BUNDLED = ["preact", "@preact/signals", "@preact/signals-core", "marked", "lowlight", "highlight.js", "devlop", "@fontsource/ibm-plex-sans", "@fontsource/ibm-plex-mono"];

function licences(): Plugin {
  return {
    name: "licences",
    apply: "build",
    generateBundle() {
      const parts = BUNDLED.map((name) => {
        const folder = new URL(`node_modules/${name}/`, import.meta.url);
        const file = readdirSync(folder).find((entry) => /^licen[sc]e/i.test(entry));
        if (!file) this.error(`${name} has no licence file`);
        return `${name}\n${"=".repeat(name.length)}\n\n${readFileSync(new URL(file, folder), "utf8").trim()}\n`;
      });
      this.emitFile({ type: "asset", fileName: "licences.txt", source: parts.join("\n\n") });
    },
  };
}

export default defineConfig({
  base: "./",
  plugins: [contentSecurityPolicy(), licences()],
  build: {
    target: "es2022",
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
  },
  server: { proxy: { "/v1": { target: api, changeOrigin: true } } },
  test: { include: ["test/**/*.test.{ts,tsx}"] },
});

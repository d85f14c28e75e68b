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

export default defineConfig({
  base: "./",
  plugins: [contentSecurityPolicy()],
  build: {
    target: "es2022",
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
  },
  server: { proxy: { "/v1": { target: api, changeOrigin: true } } },
  test: { include: ["test/**/*.test.{ts,tsx}"] },
});

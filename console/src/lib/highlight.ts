/** Syntax colours for code blocks. The result is a tree of plain nodes, never a string of HTML. */

import { createLowlight } from "lowlight";
import bash from "highlight.js/lib/languages/bash";
import c from "highlight.js/lib/languages/c";
import cpp from "highlight.js/lib/languages/cpp";
import css from "highlight.js/lib/languages/css";
import diff from "highlight.js/lib/languages/diff";
import dockerfile from "highlight.js/lib/languages/dockerfile";
import go from "highlight.js/lib/languages/go";
import ini from "highlight.js/lib/languages/ini";
import java from "highlight.js/lib/languages/java";
import javascript from "highlight.js/lib/languages/javascript";
import json from "highlight.js/lib/languages/json";
import markdown from "highlight.js/lib/languages/markdown";
import python from "highlight.js/lib/languages/python";
import rust from "highlight.js/lib/languages/rust";
import sql from "highlight.js/lib/languages/sql";
import typescript from "highlight.js/lib/languages/typescript";
import xml from "highlight.js/lib/languages/xml";
import yaml from "highlight.js/lib/languages/yaml";

const lowlight = createLowlight({
  bash, c, cpp, css, diff, dockerfile, go, ini, java, javascript, json, markdown, python, rust, sql, typescript, xml, yaml,
});

/** Longer blocks stay plain: colouring them again for every streamed token would cost more than it shows. */
const MAX_LENGTH = 40_000;

export type HighlightNode = string | { className: string; children: HighlightNode[] };

export function highlight(code: string, language: string): HighlightNode[] {
  const name = language.toLowerCase();
  if (!name || code.length > MAX_LENGTH || !lowlight.registered(name)) return [code];
  return lowlight.highlight(name, code).children.flatMap(convert);
}

type LowlightNode = ReturnType<typeof lowlight.highlight>["children"][number];

function convert(node: LowlightNode): HighlightNode[] {
  if (node.type === "text") return [node.value];
  if (node.type !== "element") return [];
  const names = node.properties["className"];
  const children = node.children.flatMap((child) => convert(child));
  return [{ className: Array.isArray(names) ? names.join(" ") : "", children }];
}

/** Draws Markdown as elements. Blocks that did not change since the last token keep their very nodes. */

import { useMemo } from "preact/hooks";
import type { ComponentChildren, VNode } from "preact";
import { highlight, type HighlightNode } from "../lib/highlight";
import { closeOpenMarkup, decodeEntities, parseMarkdown, safeUrl, type Token, type Tokens } from "../lib/markdown";
import { CopyButton } from "./controls";

/** Deeper nesting is shown as plain text: no one writes it, and it must not exhaust the stack. */
const MAX_DEPTH = 24;

export function Markdown({ text, streaming = false }: { text: string; streaming?: boolean }) {
  const blocks = useMemo(() => parseMarkdown(streaming ? closeOpenMarkup(text) : text), [text, streaming]);
  return (
    <div class={streaming ? "prose streaming" : "prose"}>
      {blocks.map((token, index) => token.type !== "space" && <Block key={index} raw={token.raw} token={token} />)}
    </div>
  );
}

function Block({ raw, token }: { raw: string; token: Token }) {
  // A block is what its source says: the same source is the same element, and Preact then leaves it alone.
  return useMemo(() => <>{block(token, 0)}</>, [raw, token.type]);
}

function block(token: Token, depth: number): ComponentChildren {
  if (depth > MAX_DEPTH) return token.raw;
  switch (token.type) {
    case "paragraph":
      return <p>{inline((token as Tokens.Paragraph).tokens, depth)}</p>;
    case "heading": {
      const heading = token as Tokens.Heading;
      // The page has its own h1 and h2: an answer's outline hangs below them.
      const Tag = `h${Math.min(6, heading.depth + 2)}` as "h3";
      return <Tag class={`level-${heading.depth}`}>{inline(heading.tokens, depth)}</Tag>;
    }
    case "code":
      return <CodeBlock code={(token as Tokens.Code).text} language={(token as Tokens.Code).lang ?? ""} />;
    case "blockquote":
      return <blockquote>{(token as Tokens.Blockquote).tokens.map((child) => block(child, depth + 1))}</blockquote>;
    case "list":
      return list(token as Tokens.List, depth);
    case "table":
      return table(token as Tokens.Table, depth);
    case "hr":
      return <hr />;
    case "html":
      return <p class="literal">{token.raw.trimEnd()}</p>;
    case "text": {
      const { tokens } = token as Tokens.Text;
      return tokens ? inline(tokens, depth) : decodeEntities((token as Tokens.Text).text);
    }
    case "space":
    case "def":
      return null;
    default:
      return inline([token], depth);
  }
}

function list(token: Tokens.List, depth: number): VNode {
  const items = token.items.map((item, index) => (
    <li key={index} class={item.task ? "task" : undefined}>
      {item.task && <input type="checkbox" checked={item.checked ?? false} disabled aria-label={item.checked ? "done" : "to do"} />}
      {item.tokens.filter((child) => child.type !== "checkbox").map((child) => block(child, depth + 1))}
    </li>
  ));
  if (!token.ordered) return <ul>{items}</ul>;
  return <ol start={token.start === "" ? 1 : token.start}>{items}</ol>;
}

function table(token: Tokens.Table, depth: number): VNode {
  const cell = (content: Tokens.TableCell, index: number, Tag: "th" | "td") => (
    <Tag key={index} class={content.align ? `align-${content.align}` : undefined}>{inline(content.tokens, depth)}</Tag>
  );
  return (
    <div class="table" tabIndex={0} role="region" aria-label="Table">
      <table>
        <thead><tr>{token.header.map((content, index) => cell(content, index, "th"))}</tr></thead>
        <tbody>
          {token.rows.map((row, index) => <tr key={index}>{row.map((content, column) => cell(content, column, "td"))}</tr>)}
        </tbody>
      </table>
    </div>
  );
}

function inline(tokens: readonly Token[], depth: number): ComponentChildren {
  if (depth > MAX_DEPTH) return tokens.map((token) => token.raw).join("");
  return tokens.map((token) => span(token, depth));
}

function span(token: Token, depth: number): ComponentChildren {
  switch (token.type) {
    case "strong":
      return <strong>{inline((token as Tokens.Strong).tokens, depth + 1)}</strong>;
    case "em":
      return <em>{inline((token as Tokens.Em).tokens, depth + 1)}</em>;
    case "del":
      return <del>{inline((token as Tokens.Del).tokens, depth + 1)}</del>;
    case "codespan":
      return <code>{(token as Tokens.Codespan).text}</code>;
    case "br":
      return <br />;
    case "link": {
      const link = token as Tokens.Link;
      return anchor(link.href, inline(link.tokens, depth + 1));
    }
    case "image": {
      const image = token as Tokens.Image;
      return anchor(image.href, `[image: ${image.text || "untitled"}]`);
    }
    case "html":
      return /^<br\s*\/?>$/i.test(token.raw) ? <br /> : token.raw;
    case "escape":
      return (token as Tokens.Escape).text;
    case "text": {
      const { tokens, text } = token as Tokens.Text;
      return tokens ? inline(tokens, depth + 1) : decodeEntities(text);
    }
    default:
      return token.raw;
  }
}

function anchor(address: string, children: ComponentChildren): ComponentChildren {
  const url = safeUrl(address);
  if (url === undefined) return <span class="dead-link" title={address}>{children}</span>;
  return <a href={url} target="_blank" rel="noopener noreferrer nofollow">{children}</a>;
}

export function CodeBlock({ code, language }: { code: string; language: string }) {
  const name = /^[\w+#.-]+/.exec(language)?.[0] ?? "";
  const nodes = useMemo(() => highlight(code, name), [code, name]);
  return (
    <figure class="code">
      <figcaption>
        <span>{name || "text"}</span>
        <CopyButton text={() => code} label="Copy code" />
      </figcaption>
      <pre tabIndex={0}><code>{nodes.map(colour)}</code></pre>
    </figure>
  );
}

function colour(node: HighlightNode): ComponentChildren {
  if (typeof node === "string") return node;
  return <span class={node.className}>{node.children.map(colour)}</span>;
}

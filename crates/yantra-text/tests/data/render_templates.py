"""Renders every chat template with Jinja2 as Hugging Face `apply_chat_template` sets it up.

Usage: python render_templates.py TEMPLATE_FOLDER > rendered_templates.json   (needs only `jinja2`)

The output holds the inputs beside the outputs, so that the Rust test renders exactly the same conversations:
{"cases": {CASE: {"messages", "tools", "add_generation_prompt", "extra"}},
 "rendered": {TEMPLATE: {CASE: {"text": …} | {"error": …}}}}
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
    "wrong_order": case([PLAIN[1], PLAIN[1], {"role": "narrator", "content": "x"}]),
}


def main():
    env = environment()
    rendered = {}
    for path in sorted(Path(sys.argv[1]).glob("*.jinja")):
        results = rendered.setdefault(path.stem, {})
        for name, inputs in CASES.items():
            try:
                template = env.from_string(path.read_text(encoding="utf-8"))
                text = template.render(
                    messages=inputs["messages"],
                    tools=inputs["tools"],
                    documents=None,
                    add_generation_prompt=inputs["add_generation_prompt"],
                    **inputs["extra"],
                )
                results[name] = {"text": text}
            except Exception as error:  # whatever Python raises, the Rust side must refuse too
                results[name] = {"error": f"{type(error).__name__}: {error}"}
    json.dump({"cases": CASES, "rendered": rendered}, sys.stdout, ensure_ascii=False, indent=1)
    print()


if __name__ == "__main__":
    main()

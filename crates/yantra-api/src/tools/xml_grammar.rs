//! The grammar of calls in tags: texts are texts that the end tag is no part of, all else is JSON of its schema.

use serde_json::{Map, Value};

use super::{
    Tool,
    grammar::{Wanted, escaped},
    kinds::Kinds,
    values::{Rules, is_required, quoted, with_definitions},
};

/// What stands around the parts of a call.
pub(super) struct Style {
    /// What begins calls.
    open: &'static str,
    /// What ends them.
    close: &'static str,
    /// Whether another call begins with `open` again.
    opens_each: bool,
    /// Before and after a call's name.
    name: [&'static str; 2],
    /// What ends a call, before `close`.
    end: &'static str,
    /// Before an argument's name, between it and its value, and after that.
    argument: [&'static str; 3],
    /// What a text as a value can not hold: it would end it.
    value_end: &'static str,
}

impl Style {
    pub(super) const QWEN: Self = Self {
        open: "<tool_call>",
        close: "\n</tool_call>",
        opens_each: true,
        name: ["\n<function=", ">\n"],
        end: "</function>",
        argument: ["<parameter=", ">\n", "\n</parameter>\n"],
        value_end: "</parameter>",
    };
    pub(super) const GLM: Self = Self {
        open: "<tool_call>",
        close: "</tool_call>",
        opens_each: true,
        name: ["", "\n"],
        end: "",
        argument: ["<arg_key>", "</arg_key>\n<arg_value>", "</arg_value>\n"],
        value_end: "</arg_value>",
    };
    pub(super) const MINIMAX: Self = Self {
        open: "<minimax:tool_call>",
        close: "</minimax:tool_call>",
        opens_each: false,
        name: ["<invoke name=\"", "\">\n"],
        end: "</invoke>\n",
        argument: ["<parameter name=\"", "\">", "</parameter>\n"],
        value_end: "</parameter>",
    };
}

/// The grammar of answers.
pub(super) fn grammar(wanted: Wanted<'_>, style: &Style) -> Result<String, String> {
    let mut rules = Rules::default();
    let calls: Vec<String> = wanted.tools.iter().map(|tool| call(tool, style, &mut rules)).collect::<Result<_, _>>()?;
    let close = quoted(style.close);
    let (first, next) = match style.opens_each {
        true => (format!("call {close}"), format!("\"\\n\" {} call {close}", wanted.marker(style.open))),
        false => ("\"\\n\" call".to_owned(), "call".to_owned()),
    };
    let rest = if wanted.parallel { format!(" ({next})*") } else { String::new() };
    let last = if style.opens_each { String::new() } else { format!(" {close}") };
    let all = format!("call: {}\n{}", calls.join(" | "), rules.text());
    Ok(wanted.opened(style.open, &format!("{first}{rest}{last}"), &all))
}

/// The rule of a call of one tool.
fn call(tool: &Tool, style: &Style, rules: &mut Rules) -> Result<String, String> {
    const UNDERSTOOD: [&str; 6] = ["type", "properties", "required", "additionalProperties", "$defs", "definitions"];
    let parameters = tool.parameters.as_object().cloned().unwrap_or_default();
    if let Some(keyword) = parameters.keys().find(|keyword| !is_understood(keyword, &UNDERSTOOD))
        && tool.strict
    {
        return Err(refusal(tool, keyword, "the parameters"));
    }
    let [begin, between] = style.name;
    let mut body = quoted(&format!("{begin}{}{between}", tool.name));
    for (name, schema) in parameters.get("properties").and_then(Value::as_object).into_iter().flatten() {
        let argument = argument(tool, name, &with_definitions(schema, &parameters), style, rules)?;
        body += &format!(" {argument}{}", if is_required(&parameters, name) { "" } else { "?" });
    }
    if parameters.get("additionalProperties") != Some(&Value::Bool(false)) {
        let [begin, between, _] = style.argument;
        let text = text_until_end(&Map::new(), style, false, rules).unwrap_or_default();
        let other = rules.add(&format!("{} /[A-Za-z0-9_.\\-]{{1,64}}/ {} {text}", quoted(begin), quoted(between)));
        body += &format!(" {other}*");
    }
    if !style.end.is_empty() {
        body += &format!(" {}", quoted(style.end));
    }
    Ok(rules.add(&body))
}

/// The rule of an argument.
fn argument(tool: &Tool, name: &str, schema: &Value, style: &Style, rules: &mut Rules) -> Result<String, String> {
    let [begin, between, end] = style.argument;
    let head = quoted(&format!("{begin}{name}{between}"));
    let kinds = Kinds::of_schema(schema, schema);
    let value = if !kinds.has_text() {
        format!("{} {}", rules.value(schema), quoted(end))
    } else if !kinds.is_text() {
        // A text that looks like JSON would be read as that.
        if tool.strict && kinds != Kinds::ANY && !kinds.is_text_or_word() {
            return Err(refusal(tool, "type", &format!("'{name}'")));
        }
        text_until_end(&Map::new(), style, false, rules).unwrap_or_default()
    } else {
        let schema = schema.as_object().cloned().unwrap_or_default();
        text_until_end(&schema, style, tool.strict, rules)
            .map_err(|keyword| refusal(tool, &keyword, &format!("'{name}'")))?
    };
    Ok(rules.add(&format!("{head} {value}")))
}

fn refusal(tool: &Tool, keyword: &str, place: &str) -> String {
    format!(
        "'{keyword}' of {place} of the strict tool '{}' can not be followed where the model writes calls in tags; leave it \
         or \"strict\" out, or give \"tool_format\": \"json\"",
        tool.name
    )
}

fn is_understood(keyword: &str, understood: &[&str]) -> bool {
    understood.contains(&keyword) || super::values::ANNOTATIONS.contains(&keyword)
}

/// A text of a schema and what ends it; or the keyword of a strict schema that can not be followed.
fn text_until_end(
    schema: &Map<String, Value>,
    style: &Style,
    is_strict: bool,
    rules: &mut Rules,
) -> Result<String, String> {
    const UNDERSTOOD: [&str; 8] =
        ["type", "enum", "const", "pattern", "minLength", "maxLength", "$defs", "definitions"];
    let end = style.argument[2];
    if let Some(keyword) = schema.keys().find(|keyword| is_strict && !is_understood(keyword, &UNDERSTOOD)) {
        return Err(keyword.clone());
    }
    let listed = schema.get("enum").and_then(Value::as_array);
    let listed = listed.cloned().or_else(|| schema.get("const").map(|only| vec![only.clone()]));
    if let Some(values) = listed {
        let values = values.iter().filter_map(Value::as_str).filter(|value| !value.contains(style.value_end));
        let ways: Vec<String> = values.map(|value| quoted(&format!("{value}{end}"))).collect();
        return Ok(format!("({})", ways.join(" | ")));
    }
    let count = |keyword: &str| schema.get(keyword).and_then(Value::as_u64);
    let mut body = match (count("minLength"), count("maxLength")) {
        (None, None) => "/(?s:.*)/".to_owned(),
        (least, most) => {
            format!("/(?s:.{{{},{}}})/", least.unwrap_or(0), most.map(|most| most.to_string()).unwrap_or_default())
        }
    };
    body += &format!(" & ~/(?s:.*){}(?s:.*)/", escaped(style.value_end));
    if let Some(pattern) = schema.get("pattern").and_then(Value::as_str).filter(|_| is_strict) {
        body += &format!(" & {}", searched(pattern).ok_or_else(|| "pattern".to_owned())?);
    }
    Ok(rules.add_lazy(&format!("({body}) {}", quoted(end))))
}

/// A text that a pattern of JSON Schema is found in; `None` where its anchors do not stand around all of it.
fn searched(pattern: &str) -> Option<String> {
    let (inner, is_begun) = pattern.strip_prefix('^').map_or((pattern, false), |rest| (rest, true));
    let is_ended = inner.ends_with('$') && !inner.ends_with("\\$");
    let inner = if is_ended { &inner[..inner.len() - 1] } else { inner };
    let has_anchor = inner.replace("\\$", "").replace("[^", "").replace("\\^", "").contains(['^', '$']);
    let has_ways = (is_begun || is_ended) && inner.contains('|') && !(inner.starts_with('(') && inner.ends_with(')'));
    if inner.is_empty() || has_anchor || has_ways || inner.contains('\n') {
        return None;
    }
    let any = |is_anchored: bool| if is_anchored { "" } else { "(?s:.*)" };
    let inner = inner.replace("\\/", "/").replace('/', "\\/");
    Some(format!("/{}({inner}){}/", any(is_begun), any(is_ended)))
}

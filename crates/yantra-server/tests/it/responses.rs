//! Answers as lists of items: whole, streamed, continued, looked up, forgotten.

use serde_json::{Value, json};

use crate::support::{Harness, Setup};

async fn start() -> Harness {
    Setup { context: 2048, ..Setup::default() }.start().await
}

fn request(extra: &Value) -> Value {
    let mut request = json!({"model": "story", "input": "Hello", "max_output_tokens": 24, "temperature": 0});
    for (key, value) in extra.as_object().unwrap() {
        request[key] = value.clone();
    }
    request
}

async fn events(server: &Harness, request: &Value) -> Vec<Value> {
    let mut request = request.clone();
    request["stream"] = json!(true);
    let response = server.post("/v1/responses", &request).await;
    assert_eq!(response.status(), 200);
    let text = response.text().await.unwrap();
    let event = |(number, text): (usize, &str)| {
        let (name, data) = text.split_once("\ndata: ").unwrap();
        let data: Value = serde_json::from_str(data).unwrap();
        assert_eq!(name.strip_prefix("event: ").unwrap(), data["type"]);
        assert_eq!(data["sequence_number"], number);
        data
    };
    text.split("\n\n").filter(|text| !text.is_empty()).enumerate().map(event).collect()
}

/// What does not differ from answer to answer.
fn comparable(output: &Value) -> Value {
    let mut output = output.clone();
    for item in output.as_array_mut().unwrap() {
        for name in ["id", "call_id"] {
            if item.get(name).is_some() {
                item[name] = json!("ID");
            }
        }
    }
    output
}

#[tokio::test]
async fn streams_say_what_whole_answers_say() {
    let server = start().await;
    let parameters =
        json!({"type": "object", "properties": {"city": {"enum": ["Rome", "Oslo"]}}, "required": ["city"]});
    let tools = json!([{"type": "function", "name": "weather", "parameters": parameters}]);
    let schema = json!({"type": "object", "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 9}}, "required": ["n"], "additionalProperties": false});
    for (extra, status, kind) in [
        (json!({}), "incomplete", "message"),
        (json!({"instructions": "Be brief."}), "incomplete", "message"),
        (
            json!({"text": {"format": {"type": "json_schema", "name": "n", "schema": schema}}, "max_output_tokens": 200}),
            "completed",
            "message",
        ),
        (
            json!({"tools": tools, "tool_choice": "required", "parallel_tool_calls": false, "max_output_tokens": 200}),
            "completed",
            "function_call",
        ),
        (
            json!({"tools": tools, "tool_choice": {"type": "function", "name": "weather"}, "parallel_tool_calls": false, "tool_format": "react", "max_output_tokens": 1200}),
            "completed",
            "function_call",
        ),
    ] {
        let request = request(&extra);
        let whole = server.ok("/v1/responses", &request).await;
        assert_eq!(whole["status"], status, "{extra}");
        assert_eq!(whole["output"].as_array().unwrap().last().unwrap()["type"], kind, "{extra}");
        let events = events(&server, &request).await;
        let last = &events.last().unwrap()["response"];
        assert_eq!(events.last().unwrap()["type"], format!("response.{status}"));
        assert_eq!(comparable(&last["output"]), comparable(&whole["output"]), "{extra}");
        let deltas = |kind: &str| -> String {
            events.iter().filter(|event| event["type"] == kind).map(|event| event["delta"].as_str().unwrap()).collect()
        };
        let item = last["output"].as_array().unwrap().last().unwrap();
        match kind {
            "message" => assert_eq!(item["content"][0]["text"], deltas("response.output_text.delta")),
            _ => {
                assert_eq!(item["arguments"], deltas("response.function_call_arguments.delta"));
                let arguments: Value = serde_json::from_str(item["arguments"].as_str().unwrap()).unwrap();
                assert!(arguments["city"].is_string());
            }
        }
    }
}

#[tokio::test]
async fn answers_are_continued_looked_up_and_forgotten() {
    let server = start().await;
    let first = server.ok("/v1/responses", &request(&json!({"metadata": {"a": "b"}}))).await;
    let id = first["id"].as_str().unwrap();
    let (status, found) = server.get(&format!("/v1/responses/{id}")).await;
    assert_eq!((status, serde_json::from_str::<Value>(&found).unwrap()), (200, first.clone()));
    let (_, items) = server.get(&format!("/v1/responses/{id}/input_items")).await;
    let items: Value = serde_json::from_str(&items).unwrap();
    assert_eq!(items["data"][0]["content"][0]["text"], "Hello");
    let second = server.ok("/v1/responses", &request(&json!({"previous_response_id": id, "input": "And?"}))).await;
    let tokens = |response: &Value| response["usage"]["input_tokens"].as_u64().unwrap();
    // The first question and answer, and the second question, each in their turns.
    assert!(tokens(&second) > tokens(&first) + 24, "{second}");
    let response = server.send("DELETE", &format!("/v1/responses/{id}"), "").await;
    assert_eq!(response.json::<Value>().await.unwrap()["deleted"], true);
    assert_eq!(server.get(&format!("/v1/responses/{id}")).await.0, 404);
    let gone = server.post("/v1/responses", &request(&json!({"previous_response_id": id}))).await;
    assert_eq!(gone.status(), 404);
    let error = gone.json::<Value>().await.unwrap()["error"].clone();
    assert_eq!(error["param"], "previous_response_id", "{error}");
    let unkept = server.ok("/v1/responses", &request(&json!({"store": false}))).await;
    assert_eq!(server.get(&format!("/v1/responses/{}", unkept["id"].as_str().unwrap())).await.0, 404);
}

#[tokio::test]
async fn calls_and_their_results_go_on() {
    let server = start().await;
    let input = json!([
        {"role": "user", "content": "The weather?"},
        {"type": "function_call", "call_id": "c", "name": "weather", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "sunny"},
    ]);
    let body = server.ok("/v1/responses", &request(&json!({"input": input}))).await;
    assert_eq!(body["output"][0]["type"], "message");
    let refused = server.post("/v1/responses", &request(&json!({"background": true}))).await;
    assert_eq!(refused.status(), 400);
}

//! Models that come and go while the server runs.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use yantra_server::{
    ApiError, KeyFile, ModelKind, ModelLoader, RawServerConfig, ServedModel, Server, ServerConfig, Terms,
};

use crate::support::{Counter, Harness, Setup, chat, chunks, data_lines, embedding_model, served};

/// Loads storytellers, and a counter; not before it may.
#[derive(Debug, Default)]
struct Shelf {
    may_not: AtomicBool,
    gone: Mutex<Vec<String>>,
}

impl ModelLoader for Shelf {
    fn check(&self, model: &str) -> Result<String, ApiError> {
        match model {
            "secret" => Err(ApiError::invalid_param("model", "'secret' given, something else expected")),
            model => Ok(model.to_owned()),
        }
    }

    fn load(&self, model: &str, id: &str, aliases: &[String]) -> Result<ServedModel, String> {
        while self.may_not.load(SeqCst) {
            std::thread::sleep(Duration::from_millis(5));
        }
        let kind = match model {
            "broken" => return Err("the file ends early".to_owned()),
            "counter" => {
                let counter = Counter { delay: Duration::from_millis(100), texts: Arc::default() };
                embedding_model(counter, 8).kind
            }
            _ => ModelKind::Generate(Setup { delay: Duration::from_millis(5), ..Setup::default() }.generator()),
        };
        Ok(ServedModel { aliases: aliases.to_vec(), ..served(id, kind) })
    }

    fn adapter_path(&self, path: &str) -> Result<PathBuf, ApiError> {
        Ok(PathBuf::from(path))
    }

    fn unloaded(&self, id: &str) {
        self.gone.lock().unwrap().push(id.to_owned());
    }
}

async fn start(config: RawServerConfig) -> (Harness, Arc<Shelf>) {
    let shelf = Arc::new(Shelf::default());
    let setup = Setup::default();
    let generator = setup.generator();
    let engine = generator.engine.clone();
    let server = Server::builder(ServerConfig::try_from(config).unwrap())
        .model(served("story", ModelKind::Generate(generator)))
        .model_loader(Arc::clone(&shelf) as Arc<dyn ModelLoader>)
        .build()
        .unwrap();
    (Harness::serve(server, engine).await, shelf)
}

fn allowed() -> RawServerConfig {
    RawServerConfig { port: 0, allow_model_changes: true, ..RawServerConfig::default() }
}

/// The status and the body of a post.
async fn post(server: &Harness, path: &str, body: Value) -> (u16, Value) {
    let response = server.post(path, &body).await;
    (response.status().as_u16(), response.json().await.unwrap())
}

/// A model's state in `/ready`.
async fn state(server: &Harness, model: &str) -> Option<String> {
    let body: Value = serde_json::from_str(&server.get("/ready").await.1).unwrap();
    let models = body["models"].as_array().unwrap();
    let found = models.iter().find(|load| load["model"] == model)?;
    Some(found["state"].as_str().unwrap().to_owned())
}

async fn reaches(server: &Harness, model: &str, expected: &str) {
    let begun = Instant::now();
    while state(server, model).await.as_deref() != Some(expected) {
        assert!(begun.elapsed() < Duration::from_secs(20), "{model} is {:?}", state(server, model).await);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn ask(model: &str, max_tokens: usize) -> Value {
    let mut request = chat("Hello");
    request["model"] = json!(model);
    request["max_tokens"] = json!(max_tokens);
    request
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_comes_and_goes() {
    let (server, shelf) = start(allowed()).await;
    shelf.may_not.store(true, SeqCst);
    let request = json!({"model": "tale", "name": "bedtime", "aliases": ["evening"]});
    let (status, body) = post(&server, "/v1/models/load", request.clone()).await;
    assert_eq!((status, &body["model"], &body["state"]), (202, &json!("bedtime"), &json!("loading")), "{body}");
    assert_eq!(server.get("/ready").await.0, 503);
    assert_eq!(post(&server, "/v1/chat/completions", ask("evening", 2)).await.1["error"]["code"], "model_loading");
    let (status, body) = post(&server, "/v1/models/load", json!({"model": "other"})).await;
    assert_eq!((status, &body["error"]["code"]), (429, &json!("rate_limit_exceeded")), "one at a time");
    let (status, body) = post(&server, "/v1/models/unload", json!({"model": "bedtime"})).await;
    assert_eq!((status, &body["error"]["code"]), (409, &json!("model_busy")));
    shelf.may_not.store(false, SeqCst);
    reaches(&server, "bedtime", "ready").await;
    assert_eq!(server.get("/ready").await.0, 200);
    assert_eq!(server.ok("/v1/chat/completions", &ask("evening", 2)).await["model"], "bedtime");
    assert!(server.get("/v1/models").await.1.contains("bedtime"));
    for name in ["bedtime", "evening", "story"] {
        let (status, body) = post(&server, "/v1/models/load", json!({"model": "x", "name": name})).await;
        assert_eq!((status, &body["error"]["code"]), (409, &json!("model_exists")), "{name}");
    }

    let (status, body) = post(&server, "/v1/models/unload", json!({"model": "evening"})).await;
    assert_eq!((status, body), (200, json!({"id": "bedtime", "object": "model", "deleted": true})));
    assert_eq!(*shelf.gone.lock().unwrap(), ["bedtime"]);
    assert_eq!(state(&server, "bedtime").await, None);
    assert_eq!(post(&server, "/v1/chat/completions", ask("bedtime", 2)).await.0, 404);
    assert_eq!(post(&server, "/v1/models/unload", json!({"model": "bedtime"})).await.0, 404);
    let (status, _) = post(&server, "/v1/models/load", request).await;
    assert_eq!(status, 202, "the name is free again");
    reaches(&server, "bedtime", "ready").await;
    let response = server.send("DELETE", "/v1/models/bedtime", "").await;
    assert_eq!(response.json::<Value>().await.unwrap()["deleted"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_finishes_and_nothing_new_begins() {
    let (server, _) = start(allowed()).await;
    post(&server, "/v1/models/load", json!({"model": "tale"})).await;
    reaches(&server, "tale", "ready").await;
    let mut request = ask("tale", 100);
    request["stream"] = json!(true);
    let running = server.post("/v1/chat/completions", &request).await;
    let unloading = async {
        let response = server.post("/v1/models/unload", &json!({"model": "tale"})).await;
        response.status().as_u16()
    };
    let meanwhile = async {
        reaches(&server, "tale", "draining").await;
        post(&server, "/v1/chat/completions", ask("tale", 2)).await
    };
    let (status, (refused, body), streamed) = tokio::join!(unloading, meanwhile, running.text());
    assert_eq!((refused, &body["error"]["code"]), (503, &json!("model_unloading")));
    let streamed = chunks(&data_lines(&streamed.unwrap()));
    assert_eq!(streamed[streamed.len() - 2]["choices"][0]["finish_reason"], "length");
    assert_eq!(status, 200);
    server.ok("/v1/chat/completions", &chat("Hello")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_cancelled_at_the_deadline() {
    let (server, _) = start(RawServerConfig { drain_timeout_s: 0.1, ..allowed() }).await;
    post(&server, "/v1/models/load", json!({"model": "tale"})).await;
    reaches(&server, "tale", "ready").await;
    let mut request = ask("tale", 400);
    request["stream"] = json!(true);
    let running = server.post("/v1/chat/completions", &request).await;
    let begun = Instant::now();
    assert_eq!(post(&server, "/v1/models/unload", json!({"model": "tale"})).await.0, 200);
    assert!(begun.elapsed() < Duration::from_millis(1500));
    assert!(running.text().await.unwrap().contains("error"));
}

#[tokio::test(flavor = "multi_thread")]
async fn embedding_models_finish_too() {
    let (server, _) = start(allowed()).await;
    post(&server, "/v1/models/load", json!({"model": "counter"})).await;
    reaches(&server, "counter", "ready").await;
    let request = json!({"model": "counter", "input": ["a"]});
    let embedding = server.post("/v1/embeddings", &request);
    let unloading = async {
        tokio::time::sleep(Duration::from_millis(40)).await;
        post(&server, "/v1/models/unload", json!({"model": "counter"})).await
    };
    let (embedded, unloaded) = tokio::join!(embedding, unloading);
    assert_eq!((embedded.status().as_u16(), unloaded.0), (200, 200));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_be_loaded_is_said_and_can_be_taken_away() {
    let (server, _) = start(allowed()).await;
    assert_eq!(post(&server, "/v1/models/load", json!({"model": "broken"})).await.0, 202);
    reaches(&server, "broken", "failed").await;
    assert!(server.get("/ready").await.1.contains("the file ends early"));
    // Another try may take its place.
    assert_eq!(post(&server, "/v1/models/load", json!({"model": "broken"})).await.0, 202);
    reaches(&server, "broken", "failed").await;
    assert_eq!(post(&server, "/v1/models/unload", json!({"model": "broken"})).await.0, 200);
    assert_eq!(server.get("/ready").await.0, 200);
    for (body, param) in [
        (json!({"model": "secret"}), "model"),
        (json!({"model": "a", "name": "a b"}), "name"),
        (json!({"model": "a", "aliases": vec!["x"; 65]}), "aliases"),
        (json!({"model": "a", "path": "b"}), "path"),
    ] {
        let (status, answer) = post(&server, "/v1/models/load", body).await;
        assert_eq!((status, &answer["error"]["param"]), (400, &json!(param)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_who_may_changes_models() {
    let (server, _) = start(RawServerConfig { port: 0, ..RawServerConfig::default() }).await;
    for path in ["/v1/models/load", "/v1/models/unload"] {
        let (status, body) = post(&server, path, json!({"model": "story"})).await;
        assert_eq!((status, &body["error"]["code"]), (403, &json!("model_changes_disabled")));
    }
    assert_eq!(server.send("DELETE", "/v1/models/story", "").await.status(), 403);

    let mut setup = Setup::default();
    setup.server.allow_model_changes = true;
    let (status, body) = post(&setup.start().await, "/v1/models/load", json!({"model": "a"})).await;
    assert_eq!((status, &body["error"]["code"]), (501, &json!("not_configured")), "without a loader");

    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keys.toml");
    let mut file = KeyFile::default();
    let (_, alice) = file.create("alice", Terms { admin: true, ..Terms::default() }).unwrap();
    let (_, bob) = file.create("bob", Terms::default()).unwrap();
    file.write(&path).unwrap();
    let api_keys = vec!["configured-key".to_owned()];
    let (server, _) = start(RawServerConfig { keys_file: Some(path), api_keys, ..allowed() }).await;
    let load = async |key: &str| {
        let request = server.client.post(format!("{}/v1/models/load", server.url)).bearer_auth(key);
        request.json(&json!({"model": "tale"})).send().await.unwrap().status().as_u16()
    };
    assert_eq!((load(&bob).await, load("configured-key").await, load("x").await), (403, 403, 401));
    assert_eq!(load(&alice).await, 202);
}

#[tokio::test(flavor = "multi_thread")]
async fn adapters_are_listed_answer_and_go() {
    let setup = Setup::default();
    let generator = setup.generator();
    let engine = generator.engine.clone();
    let adapter = ServedModel {
        aliases: Vec::new(),
        parent: Some("story".to_owned()),
        ..served("tale", ModelKind::Generate(generator.clone()))
    };
    let server = Server::builder(ServerConfig::try_from(allowed()).unwrap())
        .model(served("story", ModelKind::Generate(generator)))
        .model(adapter)
        .model_loader(Arc::new(Shelf::default()) as Arc<dyn ModelLoader>)
        .build()
        .unwrap();
    let server = Harness::serve(server, engine).await;
    let models: Value = serde_json::from_str(&server.get("/v1/models").await.1).unwrap();
    let parents: Vec<_> = models["data"].as_array().unwrap().iter().map(|m| (&m["id"], &m["parent"])).collect();
    assert_eq!(parents, [(&json!("story"), &Value::Null), (&json!("tale"), &json!("story"))]);
    assert_eq!(server.ok("/v1/chat/completions", &ask("tale", 2)).await["model"], "tale");
    assert_eq!(state(&server, "tale").await, None, "a part of its model");
    let mut nameless = ask("", 2);
    nameless.as_object_mut().unwrap().remove("model");
    assert_eq!(server.ok("/v1/chat/completions", &nameless).await["model"], "story", "the only model");

    let metrics = server.get("/metrics").await.1;
    let info =
        "yantra_lora_requests_info{max_lora=\"65535\",running_lora_adapters=\"tale\",waiting_lora_adapters=\"\"} ";
    assert!(metrics.contains(info), "{metrics}");

    let load = |name: &str, base: &str| json!({"lora_name": name, "lora_path": "/x", "base_model": base});
    let (status, body) = post(&server, "/v1/load_lora_adapter", load("tale", "story")).await;
    assert_eq!((status, &body["error"]["code"]), (409, &json!("model_exists")), "{body}");
    let (status, body) = post(&server, "/v1/load_lora_adapter", load("new", "story")).await;
    assert_eq!((status, &body["error"]["param"]), (400, &json!("lora_path")), "{body}");
    let (status, body) = post(&server, "/v1/load_lora_adapter", load("new", "none")).await;
    assert_eq!((status, &body["error"]["param"]), (404, &json!("base_model")), "{body}");
    let (status, _) = post(&server, "/v1/models/unload", json!({"model": "tale"})).await;
    assert_eq!(status, 400, "it is no model of its own");

    assert_eq!(post(&server, "/v1/unload_lora_adapter", json!({"lora_name": "story"})).await.0, 404);
    let (status, body) = post(&server, "/v1/unload_lora_adapter", json!({"lora_name": "tale"})).await;
    assert_eq!((status, body), (200, json!({"id": "tale", "object": "model", "deleted": true})));
    assert_eq!(post(&server, "/v1/chat/completions", ask("tale", 2)).await.0, 404);
    assert_eq!(server.ok("/v1/chat/completions", &ask("story", 2)).await["model"], "story");
}

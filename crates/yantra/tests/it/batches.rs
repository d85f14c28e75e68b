//! A batch in a process that is killed: every item is answered once all the same.

use crate::serving::Serving;
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

const ITEMS: usize = 500;
const URL: &str = "/v1/chat/completions";

impl Serving {
    /// Waits until a batch is as it should be.
    fn wait(&self, batch: &str, is_there: impl Fn(&Value) -> bool) -> Value {
        let begun = Instant::now();
        loop {
            let batch = self.get(&format!("/v1/batches/{batch}"));
            if is_there(&batch) {
                return batch;
            }
            assert!(begun.elapsed() < Duration::from_secs(300), "it does not come to that: {batch}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn names(&self, file: &Value) -> Vec<String> {
        let Some(id) = file.as_str() else { return Vec::new() };
        let text = self.ask("GET", &format!("/v1/files/{id}/content"), "text/plain", "");
        let name = |line: &str| {
            let line: Value = serde_json::from_str(line).unwrap();
            line["custom_id"].as_str().unwrap().to_owned()
        };
        text.lines().map(name).collect()
    }
}

fn done(batch: &Value) -> u64 {
    batch["request_counts"]["completed"].as_u64().unwrap()
}

#[test]
fn a_batch_outlives_a_kill() {
    let directory = tempfile::tempdir().unwrap();
    let options = ["--context", "256", "--state-dir", directory.path().to_str().unwrap()];
    let Some(first) = Serving::start(&options) else { return };
    let line = |number: usize| {
        // Some items are wrong, and end in the other file.
        let max_tokens = if number % 100 == 7 { -1 } else { 4 };
        let messages = json!([{"role": "user", "content": format!("What comes after {number}?")}]);
        let body = json!({"model": "m", "messages": messages, "max_tokens": max_tokens, "temperature": 0});
        json!({"custom_id": format!("item-{number}"), "method": "POST", "url": URL, "body": body}).to_string() + "\n"
    };
    let lines: String = (0..ITEMS).map(line).collect();
    let form = format!(
        "--cut\r\ncontent-disposition: form-data; name=\"purpose\"\r\n\r\nbatch\r\n--cut\r\n\
         content-disposition: form-data; name=\"file\"; filename=\"items.jsonl\"\r\n\r\n{lines}\r\n--cut--\r\n"
    );
    let file = first.ask("POST", "/v1/files", "multipart/form-data; boundary=cut", &form);
    let file: Value = serde_json::from_str(&file).unwrap();
    let request = json!({"input_file_id": file["id"], "endpoint": URL, "completion_window": "24h"});
    let batch = first.ask("POST", "/v1/batches", "application/json", &request.to_string());
    let batch: Value = serde_json::from_str(&batch).unwrap();
    let batch = batch["id"].as_str().unwrap();
    let seen = done(&first.wait(batch, |batch| done(batch) >= 50));
    assert!(seen <= 450, "it was too fast to be killed in the middle: {seen}");
    // SIGKILL.
    drop(first);

    let second = Serving::start(&options).unwrap();
    assert!(done(&second.get(&format!("/v1/batches/{batch}"))) >= seen, "what was done stays done");
    let ended = second.wait(batch, |batch| batch["status"] == "completed");
    assert_eq!(ended["request_counts"], json!({"total": ITEMS, "completed": ITEMS - 5, "failed": 5}));
    let (output, errors) = (second.names(&ended["output_file_id"]), second.names(&ended["error_file_id"]));
    assert_eq!((output.len(), errors.len()), (ITEMS - 5, 5));
    let names: BTreeSet<_> = output.into_iter().chain(errors).collect();
    assert_eq!(names, (0..ITEMS).map(|number| format!("item-{number}")).collect());
}

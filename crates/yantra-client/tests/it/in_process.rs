//! The engine in this process passes the same suite, with a real model.

use std::{path::PathBuf, sync::Arc};
use yantra_client::{ChatModel, ChatRequest, ClientError, EngineChat, FinishReason, conformance};
use yantra_engine::load::{LoadOptions, ModelKind, load};
use yantra_kernels::Compute;

/// SmolLM2, where it was pulled.
fn model() -> Option<EngineChat> {
    let pulled = std::env::var_os("YANTRA_MODELS").map(PathBuf::from);
    let directory = pulled.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache/yantra/models")))?;
    let path = directory.join("smollm2-135m/SmolLM2-135M-Instruct.Q4_1.gguf");
    if !path.is_file() {
        let required = std::env::var("YANTRA_REQUIRE_DATA").unwrap_or_default();
        let is_required = required.split(',').any(|word| word == "models" || word == "1");
        assert!(!is_required, "{} is not there, and YANTRA_REQUIRE_DATA={required}", path.display());
        eprintln!("SKIPPED: {} is not there (`yantra pull smollm2-135m`)", path.display());
        return None;
    }
    let options = LoadOptions { context: Some(1024), kv_memory_bytes: Some(64 << 20), ..LoadOptions::default() };
    let loaded = load(&path, &Arc::new(Compute::new(2)), &options, |_| ()).unwrap();
    let ModelKind::Generate(engine) = loaded.kind else { panic!("SmolLM2 generates text") };
    Some(EngineChat::new("smollm2-135m", engine, loaded.tokenizer, loaded.template.unwrap()))
}

#[tokio::test]
async fn in_process() {
    let Some(model) = model() else { return };
    conformance::check(&model).await.unwrap();

    let mut request = ChatRequest::user("What is the capital of Italy? Answer in one sentence.");
    request.params.temperature = Some(0.0);
    let reply = model.complete(request.clone()).await.unwrap();
    assert!(reply.message.content.contains("Rome"), "{reply:?}");
    assert_eq!(reply.finish_reason, FinishReason::Stop);

    request.params.stop = vec!["Rome".into()];
    let reply = model.complete(request.clone()).await.unwrap();
    assert!(!reply.message.content.contains("Rome"), "{reply:?}");

    // What cannot be honoured is refused, not ignored.
    request.extra.insert("response_format".into(), "json".into());
    let error = model.complete(request).await.unwrap_err();
    assert!(matches!(&error, ClientError::InvalidRequest { reason } if reason.contains("response_format")), "{error}");
    let error = model.complete(ChatRequest::default()).await.unwrap_err();
    assert!(matches!(error, ClientError::InvalidRequest { .. }), "{error}");
}

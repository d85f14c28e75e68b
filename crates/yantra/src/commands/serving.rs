//! Between loaded models and the server: names, facts, and loading while the server already answers.

use super::{loader::Loader, reload::Reloading};
use crate::{
    backend,
    config::{ModelSettings, Settings},
};
use anyhow::{Context, Result};
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};
use yantra_engine::{SamplingParams, load::LoadedModel, spill::SpillStore};
use yantra_server::{
    Embedder, Generator, ModelFacts, ModelKind, ModelLoader, Registry, SamplingDefaults, ServedModel, Server, Shutdown,
};

/// Serves until Ctrl-C. The address is taken first, so that a port in use is known before anything is loaded, and
/// clients that come early are told to wait.
pub(crate) fn run(settings: &Settings, reloading: Reloading) -> Result<()> {
    // Wrong names are found before the port is taken.
    for model in &settings.models {
        backend::resolve(&model.model)?;
        model.engine.draft_model.as_deref().map(backend::resolve).transpose()?;
    }
    let spill = backend::spill_store(&settings.engine)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let result = runtime.block_on(serve(settings, spill, reloading));
    // Requests that were cut off may still hold a blocking thread; leaving does not wait for them.
    runtime.shutdown_background();
    result
}

async fn serve(settings: &Settings, spill: Option<Arc<SpillStore>>, reloading: Reloading) -> Result<()> {
    let loader = Arc::new(Loader::new(settings.clone(), spill));
    let mut builder =
        Server::builder(settings.server.clone()).model_loader(Arc::clone(&loader) as Arc<dyn ModelLoader>);
    for model in &settings.models {
        builder = builder.announce(&model.name, &model.aliases);
    }
    let server = builder.build()?;
    let listener = server.bind().await?;
    let url = format!("{}://{}", settings.server.scheme(), listener.local_addr()?);
    let shutdown = Shutdown::on_signals();
    reloading.on_hangup(server.reload())?;
    let failure: Arc<Mutex<Option<anyhow::Error>>> = Arc::default();
    let (registry, stopping, told) = (server.registry(), shutdown.clone(), Arc::clone(&failure));
    let settings = settings.clone();
    let load = move || match load_all(&settings, &loader, &registry) {
        Ok(()) => eprintln!("ready: {url}  (API at {url}/v1, Ctrl-C stops)"),
        Err(error) => {
            *told.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            stopping.stop_now();
        }
    };
    let loading = std::thread::Builder::new().name("loader".into()).spawn(load)?;
    server.serve(listener, shutdown).await?;
    // A loader that is still at it is left behind: the process ends.
    drop(loading);
    let error = failure.lock().unwrap_or_else(PoisonError::into_inner).take();
    error.map_or(Ok(()), Err)
}

/// Loads the models that are announced, one after the other.
fn load_all(settings: &Settings, loader: &Loader, registry: &Registry) -> Result<()> {
    for model in &settings.models {
        registry.progress(&model.name, 0.0, "loading");
        let served = loader.load_one(model);
        let served = served.inspect_err(|error| registry.failed(&model.name, format!("{error:#}")))?;
        // Before the model takes requests: who waits for it can count on them.
        let adapters = model.adapters.iter().map(|(name, path)| {
            let adapter = ServedModel::adapter(&served, name, path).map_err(anyhow::Error::msg);
            adapter.with_context(|| format!("cannot load the adapter `{name}` from {}", path.display()))
        });
        let adapters = adapters.collect::<Result<Vec<_>>>();
        let adapters = adapters.inspect_err(|error| registry.failed(&model.name, format!("{error:#}")))?;
        registry.ready(served).with_context(|| format!("cannot serve `{}`", model.name))?;
        for adapter in adapters {
            let name = adapter.id.clone();
            registry.ready_adapter(adapter).with_context(|| format!("cannot serve `{name}`"))?;
        }
    }
    Ok(())
}

/// A loaded model as the server takes it.
pub(crate) fn served(settings: &ModelSettings, loaded: LoadedModel, sampling: &SamplingParams) -> ServedModel {
    let LoadedModel { kind, tokenizer, template, info, adapters, .. } = loaded;
    let defaults = SamplingDefaults {
        temperature: sampling.temperature,
        top_p: sampling.top_p,
        top_k: sampling.top_k,
        min_p: sampling.min_p,
        repetition_penalty: sampling.repetition_penalty,
    };
    let kind = match kind {
        yantra_engine::load::ModelKind::Generate(engine) => {
            ModelKind::Generate(Generator { engine, tokenizer, template, defaults, adapter: None, adapters })
        }
        yantra_engine::load::ModelKind::Embed(handle) => ModelKind::Embed(Embedder { handle, tokenizer }),
    };
    ServedModel {
        id: settings.name.clone(),
        aliases: settings.aliases.clone(),
        created: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
        owned_by: "yantra".to_owned(),
        parent: None,
        facts: ModelFacts {
            family: Some(info.family),
            parameters: Some(info.parameters),
            quantisation: Some(info.quantization),
            size_bytes: Some(info.size_bytes),
        },
        kind,
    }
}

//! Steps that do not end: told by `/ready` and `/health`, and logged once when it is found and once when it is over.
//!
//! A step is a forward pass with what belongs to it. It has no deadline of its own, because nothing could be done about
//! one that is stuck in the processor or the kernel but to start the process anew, which is for whoever watches it.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use yantra_api::{LoadState, ModelLoad};

use crate::app::App;
use crate::registry::{ModelKind, ServedModel};

/// How often is looked, at most and at least.
const LOOK_INTERVALS: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// Every model's state; one whose step is stuck has failed.
pub(crate) fn states(app: &App) -> Vec<ModelLoad> {
    let mut states = app.registry().states();
    for (model, message) in stuck(app) {
        if let Some(load) = states.iter_mut().find(|load| load.model == model) {
            (load.state, load.message) = (LoadState::Failed, Some(message));
        }
    }
    states
}

/// The models whose step runs for longer than it may, and what is to be said of them.
pub(crate) fn stuck(app: &App) -> Vec<(String, String)> {
    let limit = app.config().stuck_step.as_secs_f64();
    let told = |model: &ServedModel| {
        let seconds = step_running_seconds(&model.kind);
        let message = || format!("a step of the model has been running for {seconds:.1} s, at most {limit} s expected");
        (seconds > limit).then(|| (model.id.clone(), message()))
    };
    app.registry().all_ready().iter().filter_map(|model| told(model)).collect()
}

fn step_running_seconds(kind: &ModelKind) -> f64 {
    match kind {
        ModelKind::Generate(generator) => generator.engine.stats().step_running_seconds,
        ModelKind::Embed(embedder) => embedder.handle.stats().step_running_seconds,
    }
}

/// Logs steps that get stuck, and those that go on; never ends.
pub(crate) async fn watch(app: &App) -> Infallible {
    let mut ticks = interval((app.config().stuck_step / 4).clamp(LOOK_INTERVALS.0, LOOK_INTERVALS.1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut known = BTreeSet::new();
    loop {
        ticks.tick().await;
        let found = stuck(app);
        for (model, message) in &found {
            if !known.contains(model) {
                tracing::error!(model, "{message}; until it ends the server calls itself unhealthy");
            }
        }
        let found: BTreeSet<String> = found.into_iter().map(|(model, _)| model).collect();
        for model in known.difference(&found) {
            tracing::warn!(model, "the step that was stuck has ended");
        }
        known = found;
    }
}

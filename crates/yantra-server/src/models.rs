//! `/v1/models`: the models that take requests.

use axum::Json;
use axum::extract::{Path, State};
use yantra_api::{ErrorBody, ModelCard, ModelDetails, ModelList};

use crate::app::App;
use crate::failure::Failure;
use crate::registry::{ModelKind, ServedModel};

/// Lists the models that take requests.
#[utoipa::path(get, path = "/v1/models", operation_id = "list_models", tag = "Models", responses((status = 200, body = ModelList)))]
pub(crate) async fn list(State(app): State<App>) -> Json<ModelList> {
    let data = app.registry().with_adapters().iter().map(|model| card(model)).collect();
    Json(ModelList { object: "list".to_owned(), data })
}

/// One model, by name or alias.
#[utoipa::path(
    get, path = "/v1/models/{id}", operation_id = "retrieve_model", tag = "Models",
    params(("id" = String, Path, description = "Name or alias of the model; may hold slashes")),
    responses((status = 200, body = ModelCard), (status = 404, body = ErrorBody), (status = 503, body = ErrorBody))
)]
pub(crate) async fn retrieve(State(app): State<App>, Path(id): Path<String>) -> Result<Json<ModelCard>, Failure> {
    Ok(Json(card(&*app.registry().find(&id)?)))
}

pub(crate) fn card(model: &ServedModel) -> ModelCard {
    let (kind, template, dimensions) = match &model.kind {
        ModelKind::Generate(generator) => ("generate", generator.template.as_ref(), None),
        ModelKind::Embed(embedder) if embedder.handle.scores_pairs() => ("score", None, None),
        ModelKind::Embed(embedder) => ("embed", None, Some(embedder.handle.dimensions())),
    };
    ModelCard {
        id: model.id.clone(),
        object: "model".to_owned(),
        created: model.created,
        owned_by: model.owned_by.clone(),
        max_model_len: model.context(),
        parent: model.parent.clone(),
        yantra: ModelDetails {
            kind: kind.to_owned(),
            aliases: model.aliases.clone(),
            chat: template.is_some(),
            tools: template.is_some_and(yantra_text::ChatTemplate::supports_tools),
            context_length: model.context(),
            family: model.facts.family.clone(),
            parameters: model.facts.parameters,
            quantisation: model.facts.quantisation.clone(),
            size_bytes: model.facts.size_bytes,
            dimensions,
        },
    }
}

//! `/v1/files`, as OpenAI has it (<https://platform.openai.com/docs/api-reference/files>).

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::ApiError;

/// What files may be for; what a batch makes has another purpose, `batch_output`.
const PURPOSES: [&str; 6] = ["batch", "assistants", "fine-tune", "vision", "user_data", "evals"];

/// A file that is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FileObject {
    /// `file-…`.
    pub id: String,
    /// `file`.
    pub object: String,
    /// How long it is.
    pub bytes: u64,
    /// When it came, in seconds since 1970.
    pub created_at: u64,
    /// When it goes; `null`: when it is deleted.
    pub expires_at: Option<u64>,
    /// What its owner calls it.
    pub filename: String,
    /// What it is for.
    pub purpose: String,
    /// `processed`.
    pub status: String,
}

/// A part of a list of files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FileList {
    /// `list`.
    pub object: String,
    /// The files.
    pub data: Vec<FileObject>,
    /// The id of the first.
    pub first_id: Option<String>,
    /// The id of the last; `after` with it asks for what follows.
    pub last_id: Option<String>,
    /// Whether anything does.
    pub has_more: bool,
}

/// A file is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FileDeleted {
    /// Its id.
    pub id: String,
    /// `file`.
    pub object: String,
    /// Whether it was deleted.
    pub deleted: bool,
}

/// A form with a file; for the document, the server reads it as it comes.
#[derive(Debug, Clone, PartialEq, Eq, ToSchema)]
pub struct FileUpload {
    /// The file.
    #[schema(value_type = String, format = Binary)]
    pub file: Vec<u8>,
    /// What it is for: `batch`, `assistants`, `fine-tune`, `vision`, `user_data` or `evals`.
    pub purpose: String,
}

impl FileUpload {
    /// Refuses purposes that files can not have.
    ///
    /// # Errors
    /// It is none of them.
    pub fn check_purpose(given: &str) -> Result<(), ApiError> {
        match PURPOSES.contains(&given) {
            true => Ok(()),
            false => {
                let message = format!("'{given}' given, one of {} expected", PURPOSES.join(", "));
                Err(ApiError::invalid_param("purpose", message))
            }
        }
    }
}

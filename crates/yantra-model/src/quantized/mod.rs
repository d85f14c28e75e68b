//! Checkpoints whose matrices another program quantised: `quantization_config` of a Hugging Face `config.json`.
//!
//! A format's file finds the parts of a matrix among the tensors and says what they mean: whole numbers and their scales
//! ([`Integers`], [`Scales`]), values of their own ([`Floats`]), or blocks that a kernel reads as they are. From there all
//! are the same, a [`Matrix`]: it says what it becomes in memory ([`Matrix::format`]) before any row is read, so that what
//! is planned is what is loaded, and writes its rows in that format ([`Matrix::write`]).
//!
//! Nothing is rounded on the way. Whole numbers with scales that half precision has go into the smallest block format that
//! holds them; what no block format holds becomes the smallest float format that has every product, else f32, where a
//! product is rounded once, as in the program that wrote it.
//!
//! Whether a matrix is quantised is seen by its tensors, not by the lists of exceptions in the configuration: those leave
//! a layer as plain weights, which load as such.

mod awq;
mod bits;
mod bitsandbytes;
mod compressed_tensors;
mod fp8;
mod gptq;
mod matrix;
mod mxfp4;
mod scales;
mod tensors;
#[cfg(test)]
mod tests;

use crate::ModelError;
pub(crate) use matrix::Matrix;
use matrix::{Floats, Integers};
use scales::{CodeRange, Groups, Scales};
use tensors::Tensors;
use yantra_formats::{Checkpoint, RawTensor, hf::Config};

/// A matrix as the model asks for it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted<'n> {
    /// The name without `.weight`.
    pub(crate) name: &'n str,
    /// Rows the tensor has.
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    /// Which of how many matrices it is in a tensor of several.
    pub(crate) part: Option<(usize, usize)>,
}

/// A quantised checkpoint.
pub(crate) struct Quantized<'a> {
    tensors: Tensors<'a>,
    method: Method,
}

/// `quant_method`, with the settings that tensors do not tell.
enum Method {
    Gptq(gptq::Settings),
    Awq,
    CompressedTensors(compressed_tensors::Settings),
    Fp8(fp8::Settings),
    BitsAndBytes,
    Mxfp4,
}

impl<'a> Quantized<'a> {
    /// The checkpoint's matrices that are quantised, if its configuration says that some are.
    ///
    /// # Errors
    /// If they are in a way that is not built.
    pub(crate) fn of(checkpoint: &'a Checkpoint) -> Result<Option<Self>, ModelError> {
        let Checkpoint::HuggingFace(directory) = checkpoint else { return Ok(None) };
        const SECTIONS: [&str; 3] = ["quantization_config", "text_config.quantization_config", "compression_config"];
        let Some(config) = SECTIONS.into_iter().find_map(|section| directory.config().section(section)) else {
            return Ok(None);
        };
        let (method, format) = Method::read(&config)?;
        Ok(Some(Self { tensors: Tensors::new(directory, format), method }))
    }

    /// The matrix, if it is quantised; `None` if it is stored as plain weights, or not at all.
    ///
    /// # Errors
    /// If a part of it is missing or not what it should be.
    pub(crate) fn matrix(&self, wanted: &Wanted<'_>) -> Result<Option<Matrix<'a>>, ModelError> {
        match &self.method {
            Method::Gptq(settings) => gptq::matrix(&self.tensors, settings, wanted),
            Method::Awq => awq::matrix(&self.tensors, wanted),
            Method::CompressedTensors(settings) => compressed_tensors::matrix(&self.tensors, settings, wanted),
            Method::Fp8(settings) => fp8::matrix(&self.tensors, settings, wanted),
            Method::BitsAndBytes => bitsandbytes::matrix(&self.tensors, wanted),
            Method::Mxfp4 => mxfp4::matrix(&self.tensors, wanted),
        }
    }
}

impl Method {
    /// The method of a `quantization_config`, and its name.
    fn read(config: &Config) -> Result<(Self, &'static str), ModelError> {
        // bitsandbytes left the method out when it was the only one.
        let bitsandbytes = config.find::<bool>("load_in_4bit")?.or(config.find("load_in_8bit")?).is_some();
        let method = config.find::<&str>("quant_method")?.unwrap_or(if bitsandbytes { "bitsandbytes" } else { "" });
        Ok(match method {
            "gptq" => (Self::Gptq(gptq::Settings::read(config)?), "GPTQ"),
            "awq" => {
                awq::check(config)?;
                (Self::Awq, "AWQ")
            }
            "compressed-tensors" => {
                let settings = compressed_tensors::Settings::read(config)?;
                (Self::CompressedTensors(settings), "compressed-tensors")
            }
            "fp8" | "fbgemm_fp8" => (Self::Fp8(fp8::Settings::read(config)?), "FP8"),
            "bitsandbytes" => (Self::BitsAndBytes, "bitsandbytes"),
            "mxfp4" => (Self::Mxfp4, "MXFP4"),
            "" => return Err(unsupported("a quantization_config without quant_method".to_owned())),
            other => return Err(unsupported(format!("quantisation '{other}' of the checkpoint ({KNOWN} are)"))),
        })
    }
}

const KNOWN: &str = "gptq, awq, compressed-tensors, fp8, bitsandbytes and mxfp4";

/// What tensors of a quantised matrix are called instead of `.weight`.
const OTHER_NAMES: [&str; 3] = [".qweight", ".weight_packed", "_blocks"];

/// Whether the checkpoint has a matrix of that name (without `.weight`), quantised or not.
pub(crate) fn is_stored(checkpoint: &Checkpoint, name: &str) -> bool {
    let plain = || checkpoint.tensor(&format!("{name}.weight")).is_some();
    let Checkpoint::HuggingFace(directory) = checkpoint else { return plain() };
    let has = |ending: &&str| directory.raw(&format!("{name}{ending}")).is_some();
    plain() || has(&".weight") || OTHER_NAMES.iter().any(has)
}

/// Whether a tensor of that name is a part of a quantised matrix that is used up when it is loaded.
pub(crate) fn is_part(name: &str) -> bool {
    const ENDINGS: [&str; 9] = [
        ".absmax",
        ".nested_absmax",
        ".quant_map",
        ".nested_quant_map",
        ".SCB",
        ".weight_scale",
        ".weight_scale_inv",
        ".weight_global_scale",
        ".scales",
    ];
    ENDINGS.iter().any(|ending| name.ends_with(ending))
}

/// How a checkpoint is quantised, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quantization {
    /// In words: "GPTQ, 4 bits in groups of 128".
    pub label: String,
    /// Values of all matrices that are quantised.
    pub num_values: u64,
}

/// How a Hugging Face checkpoint's matrices are quantised, if they are, as its configuration has it.
pub fn quantization(checkpoint: &Checkpoint) -> Option<Quantization> {
    let Checkpoint::HuggingFace(directory) = checkpoint else { return None };
    let config = directory.config().section("quantization_config")?;
    let found = |key: &str| config.find::<u64>(key).ok().flatten();
    let text = |key: &str| config.find::<&str>(key).ok().flatten().map(str::to_owned);
    let method = match Method::read(&config) {
        Ok((_, name)) => name.to_owned(),
        Err(_) => text("quant_method").unwrap_or_else(|| "unknown".to_owned()),
    };
    let bits = found("bits").map(|bits| format!("{bits} bits"));
    let group = found("group_size").map(|size| format!("groups of {size}"));
    let kind = text("bnb_4bit_quant_type").filter(|_| config.find("load_in_4bit").ok().flatten() == Some(true));
    let layout = text("format").or_else(|| text("checkpoint_format"));
    let parts = [Some(method), bits, group, kind, layout].into_iter().flatten().collect::<Vec<_>>();
    let num_values = checkpoint.others().map(|tensor| num_values(&tensor, found("bits").unwrap_or(4))).sum();
    Some(Quantization { label: parts.join(", "), num_values })
}

/// Values that a tensor holds for its matrix; 0 for what are not codes.
fn num_values(tensor: &RawTensor<'_>, bits: u64) -> u64 {
    let bytes = tensor.data.len() as u64;
    match (tensor.name, tensor.dtype) {
        (name, "I32") if name.ends_with(".qweight") || name.ends_with(".weight_packed") => bytes * 8 / bits.max(1),
        (name, "U8") if [".weight", ".weight_packed", "_blocks"].iter().any(|end| name.ends_with(end)) => bytes * 2,
        (name, "I8" | "F8_E4M3" | "F8_E5M2") if name.ends_with(".weight") => bytes,
        _ => 0,
    }
}

fn unsupported(feature: String) -> ModelError {
    ModelError::Unsupported { feature }
}

//! Writing what was planned: under another name first, so that there is never half a model under its own.

use super::{Conversion, PlannedTensor, Settings};
use crate::ModelError;
use serde_json::{Map, Value, json};
use std::{
    fs::{self, File},
    io::{self, BufWriter, Seek, Write},
    path::{Path, PathBuf},
};
use yantra_formats::{FormatError, GgufError, GgufWriter, Metadata, SafetensorsError, SafetensorsWriter};
use yantra_kernels::Compute;

/// Bytes of tensors in a file of a Hugging Face directory, as transformers splits them.
const SHARD_BYTES: u64 = 5_000_000_000;

/// Bytes that a tensor's data in a GGUF file begins at a multiple of.
const ALIGNMENT: usize = 32;

/// What goes with a model and is not known here: its tokeniser.
#[derive(Clone, Debug, Default)]
pub struct Extra {
    /// Metadata of a GGUF file.
    pub metadata: Metadata,
    /// Files of a Hugging Face directory: their names and bytes.
    pub files: Vec<(String, Vec<u8>)>,
}

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ModelError {
    let path = path.to_owned();
    move |source| FormatError::Io { doing, path, source }.into()
}

fn in_gguf(path: &Path) -> impl Fn(GgufError) -> ModelError {
    let path = path.to_owned();
    move |source| FormatError::Gguf { path: path.clone(), source }.into()
}

fn in_safetensors(path: &Path) -> impl Fn(SafetensorsError) -> ModelError {
    let path = path.to_owned();
    move |source| FormatError::Safetensors { path: path.clone(), source }.into()
}

/// The name that a destination has until it is whole.
fn partial(destination: &Path) -> PathBuf {
    let mut name = destination.file_name().unwrap_or_default().to_owned();
    name.push(format!(".partial-{}", std::process::id()));
    destination.with_file_name(name)
}

fn remove(path: &Path) -> io::Result<()> {
    if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
}

impl Conversion<'_> {
    /// Writes it all to `destination`, in place of what is there. `progress` is told the bytes of tensors that were written
    /// since it was last told.
    ///
    /// # Errors
    /// If a file can not be read or written. What was there before is there still then.
    pub fn write(
        &self,
        cx: &Compute,
        extra: &Extra,
        destination: &Path,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), ModelError> {
        let path = partial(destination);
        let written = match &self.settings {
            Settings::Gguf(metadata) => self.write_gguf(cx, metadata, &extra.metadata, &path, progress),
            Settings::HuggingFace(config) => self.write_directory(cx, config, extra, &path, progress),
        };
        let moved = written.and_then(|()| {
            if destination.exists() {
                remove(destination).map_err(failed("replace", destination))?;
            }
            fs::rename(&path, destination).map_err(failed("rename", &path))
        });
        if moved.is_err() {
            let _ = remove(&path);
        }
        moved
    }

    fn write_gguf(
        &self,
        cx: &Compute,
        metadata: &Metadata,
        extra: &Metadata,
        path: &Path,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), ModelError> {
        let wrong = in_gguf(path);
        let mut writer = GgufWriter::new();
        writer.set_all(metadata).and_then(|writer| writer.set_all(extra)).map_err(&wrong)?;
        for tensor in &self.tensors {
            writer.declare(&tensor.name, tensor.format, &tensor.shape).map_err(&wrong)?;
        }
        let out = BufWriter::with_capacity(1 << 20, File::create(path).map_err(failed("create", path))?);
        let mut body = writer.begin(out).map_err(&wrong)?;
        for tensor in &self.tensors {
            tensor.make(cx, self.checkpoint, |bytes| {
                progress(bytes.len() as u64);
                body.write(&tensor.name, bytes).map_err(&wrong)
            })?;
        }
        finish(body.finish().map_err(&wrong)?, path)
    }

    fn write_directory(
        &self,
        cx: &Compute,
        config: &Value,
        extra: &Extra,
        path: &Path,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), ModelError> {
        fs::create_dir_all(path).map_err(failed("create", path))?;
        put(path, "config.json", &pretty(config))?;
        for (name, bytes) in &extra.files {
            put(path, name, bytes)?;
        }
        let shards = shards(&self.tensors);
        let name = |index: usize| match shards.len() {
            1 => "model.safetensors".to_owned(),
            count => format!("model-{:05}-of-{count:05}.safetensors", index + 1),
        };
        for (index, tensors) in shards.iter().enumerate() {
            self.write_shard(cx, tensors, &path.join(name(index)), progress)?;
        }
        if shards.len() > 1 {
            let of = |(index, tensors): (usize, &Vec<&PlannedTensor>)| {
                tensors.iter().map(|tensor| (tensor.name.clone(), name(index).into())).collect::<Vec<_>>()
            };
            let map: Map<String, Value> = shards.iter().enumerate().flat_map(of).collect();
            let index = json!({"metadata": {"total_size": self.num_bytes()}, "weight_map": map});
            put(path, "model.safetensors.index.json", &pretty(&index))?;
        }
        Ok(())
    }

    fn write_shard(
        &self,
        cx: &Compute,
        tensors: &[&PlannedTensor],
        path: &Path,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), ModelError> {
        let wrong = in_safetensors(path);
        let out = BufWriter::with_capacity(1 << 20, File::create(path).map_err(failed("create", path))?);
        let mut body = declared(tensors, path)?.begin(out).map_err(&wrong)?;
        for tensor in tensors {
            tensor.make(cx, self.checkpoint, |bytes| {
                progress(bytes.len() as u64);
                body.write(&tensor.name, bytes).map_err(&wrong)
            })?;
        }
        finish(body.finish().map_err(&wrong)?, path)
    }

    /// Writes a model of the same settings, names and shapes, whose tensors are holes in the file but for those that settings are
    /// kept in.
    pub(super) fn write_hollow(&self, path: &Path) -> Result<(), ModelError> {
        match &self.settings {
            Settings::Gguf(metadata) => self.hollow_gguf(metadata, path),
            Settings::HuggingFace(config) => {
                fs::create_dir_all(path).map_err(failed("create", path))?;
                put(path, "config.json", &pretty(config))?;
                let path = path.join("model.safetensors");
                let all: Vec<&PlannedTensor> = self.tensors.iter().collect();
                let file = File::create(&path).map_err(failed("create", &path))?;
                hollow_safetensors(&all, &path, file)
            }
        }
    }

    fn hollow_gguf(&self, metadata: &Metadata, path: &Path) -> Result<(), ModelError> {
        let wrong = in_gguf(path);
        let mut writer = GgufWriter::new();
        writer.set_all(metadata).map_err(&wrong)?;
        for tensor in &self.tensors {
            writer.declare(&tensor.name, tensor.format, &tensor.shape).map_err(&wrong)?;
        }
        let mut file = File::create(path).map_err(failed("create", path))?;
        let mut body = writer.begin(&mut file).map_err(&wrong)?;
        // They come first.
        let made = self.tensors.iter().take_while(|tensor| tensor.sources.is_empty());
        let num_made = made.clone().count();
        let cx = Compute::new(1);
        for tensor in made {
            tensor.make(&cx, self.checkpoint, |bytes| body.write(&tensor.name, bytes).map_err(&wrong))?;
        }
        drop(body);
        let head = file.stream_position().map_err(failed("write", path))?;
        let rest = self.tensors[num_made..].iter().map(|tensor| tensor.num_bytes().next_multiple_of(ALIGNMENT) as u64);
        file.set_len(head + rest.sum::<u64>()).map_err(failed("write", path))
    }
}

fn declared(tensors: &[&PlannedTensor], path: &Path) -> Result<SafetensorsWriter, ModelError> {
    let mut writer = SafetensorsWriter::new();
    writer.set("format", "pt");
    for tensor in tensors {
        writer.declare(&tensor.name, tensor.format, &tensor.shape).map_err(in_safetensors(path))?;
    }
    Ok(writer)
}

fn hollow_safetensors(tensors: &[&PlannedTensor], path: &Path, mut file: File) -> Result<(), ModelError> {
    drop(declared(tensors, path)?.begin(&mut file).map_err(in_safetensors(path))?);
    let head = file.stream_position().map_err(failed("write", path))?;
    let data: u64 = tensors.iter().map(|tensor| tensor.num_bytes() as u64).sum();
    file.set_len(head + data).map_err(failed("write", path))
}

/// Tensors in files of no more than so many bytes, unless one alone has more.
fn shards(tensors: &[PlannedTensor]) -> Vec<Vec<&PlannedTensor>> {
    let mut shards: Vec<Vec<&PlannedTensor>> = vec![Vec::new()];
    let mut size = 0;
    for tensor in tensors {
        let bytes = tensor.num_bytes() as u64;
        if size > 0 && size + bytes > SHARD_BYTES {
            shards.push(Vec::new());
            size = 0;
        }
        size += bytes;
        if let Some(last) = shards.last_mut() {
            last.push(tensor);
        }
    }
    shards
}

fn pretty(value: &Value) -> Vec<u8> {
    format!("{value:#}\n").into_bytes()
}

fn put(directory: &Path, name: &str, bytes: &[u8]) -> Result<(), ModelError> {
    let path = directory.join(name);
    fs::write(&path, bytes).map_err(failed("write", &path))
}

/// Makes sure that all of it is on the disk.
fn finish(out: BufWriter<File>, path: &Path) -> Result<(), ModelError> {
    let mut file = out.into_inner().map_err(|error| failed("write", path)(error.into_error()))?;
    file.flush().and_then(|()| file.sync_all()).map_err(failed("write", path))
}

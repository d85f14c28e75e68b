//! Packed weights that lie in a file: those that are read seldom need no memory of their own. What was read stays in the
//! system's page cache for as long as there is room.

use super::{Isa, PackedLinear};
use crate::{Compute, KernelError, WeightFormat, buffer::Buffer};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Seek, SeekFrom, Write},
    path::Path,
    process,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

/// Where matrices begin: at a page, which is what can be mapped.
const PAGE: u64 = 64 << 10;

/// A file of packed weights. It has no name: its space is free again when the last of its matrices is dropped, however the
/// process ends.
#[derive(Debug)]
pub struct WeightFile {
    file: Mutex<File>,
}

impl WeightFile {
    /// An empty one in a directory, which is made where there is none.
    ///
    /// # Errors
    /// If it can not be made there.
    pub fn create(directory: &Path) -> Result<Self, KernelError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!(".yantra-weights-{}-{}", process::id(), NEXT.fetch_add(1, Relaxed));
        let path = directory.join(name);
        let open = || {
            fs::create_dir_all(directory)?;
            let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
            fs::remove_file(&path)?;
            Ok(file)
        };
        let file = open().map_err(|error| failed("make", &error))?;
        Ok(Self { file: Mutex::new(file) })
    }

    /// Appends bytes; gives them back as memory that the system reads from the file.
    fn append(&self, bytes: &[u8]) -> Result<Buffer, KernelError> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let write = |file: &mut File| {
            let start = file.seek(SeekFrom::End(0))?.next_multiple_of(PAGE);
            file.seek(SeekFrom::Start(start))?;
            file.write_all(bytes)?;
            Buffer::of_file(file, start, bytes.len())
        };
        write(&mut file).map_err(|error| failed("write", &error))
    }
}

fn failed(what: &'static str, error: &io::Error) -> KernelError {
    KernelError::WeightFile { what, message: error.to_string() }
}

impl PackedLinear {
    /// As [`PackedLinear::pack`], in a file.
    ///
    /// # Errors
    /// As [`PackedLinear::pack`], and if the file can not be written.
    pub fn pack_to_file(
        cx: &Compute,
        format: WeightFormat,
        rows: usize,
        cols: usize,
        data: &[u8],
        file: &WeightFile,
    ) -> Result<Self, KernelError> {
        // Memory of its own: what others are cut from is kept for as long as any of them.
        let packed = Self::pack_for(cx, Isa::of(cx.level()), format, rows, cols, data, Buffer::lazily_zeroed)?;
        if packed.buffer.len() == 0 {
            return Ok(packed);
        }
        Ok(Self { buffer: file.append(packed.buffer.as_slice())?, in_file: true, ..packed })
    }

    /// Whether the weights lie in a file.
    pub fn is_in_file(&self) -> bool {
        self.in_file
    }

    /// Tells the system to read the weights now if they are in a file and not in memory, and does not wait for it.
    pub fn will_need(&self) {
        if self.in_file {
            self.buffer.will_need();
        }
    }
}

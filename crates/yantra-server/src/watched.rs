//! What is read from files, and read again when they change: keys and certificates are renewed without a restart.
//!
//! Files are looked at when what they hold is wanted, at most once a second, rather than by the system's notifications:
//! those miss files that are replaced, mounted or linked.

use std::fmt::{Debug, Display};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime};

/// How often files are looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Files, and how to read them.
pub(crate) trait Source: Debug {
    /// What they hold.
    type Value: Debug;
    /// Why they can not be read.
    type Error: Display;
    /// What the log calls it.
    const NAME: &'static str;

    fn files(&self) -> Vec<&Path>;

    /// Reads them; `before` is what they held until now, for what has to go on.
    fn read(&self, before: Option<&Self::Value>) -> Result<Self::Value, Self::Error>;
}

/// What some files hold. Broken files leave it as it was.
#[derive(Debug)]
pub(crate) struct Watched<S: Source> {
    source: S,
    value: RwLock<Arc<S::Value>>,
    looked: Mutex<Looked>,
}

/// When the files were looked at, and what they were then.
#[derive(Debug)]
struct Looked {
    at: Instant,
    was: Vec<State>,
}

/// What tells that a file has changed; `None`: it is not there.
type State = Option<(SystemTime, u64)>;

impl<S: Source> Watched<S> {
    /// Reads the files for the first time.
    pub(crate) fn open(source: S) -> Result<Self, S::Error> {
        // Looked at before it is read: what changes meanwhile is seen next time.
        let looked = Mutex::new(Looked { at: Instant::now(), was: states(&source) });
        let value = RwLock::new(Arc::new(source.read(None)?));
        Ok(Self { source, value, looked })
    }

    /// What the files hold now, or did a second ago.
    pub(crate) fn get(&self) -> Arc<S::Value> {
        // Whoever comes while another looks goes on with what is known.
        if let Ok(mut looked) = self.looked.try_lock()
            && looked.at.elapsed() >= LOOK_INTERVAL
        {
            looked.at = Instant::now();
            let are = states(&self.source);
            if are != looked.was {
                looked.was = are;
                self.replace();
            }
        }
        Arc::clone(&self.value.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads the files again, changed or not.
    pub(crate) fn read_again(&self) {
        let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        *looked = Looked { at: Instant::now(), was: states(&self.source) };
        self.replace();
    }

    fn replace(&self) {
        let before = Arc::clone(&self.value.read().unwrap_or_else(PoisonError::into_inner));
        match self.source.read(Some(&before)) {
            Ok(value) => {
                *self.value.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(value);
                tracing::info!("the {} were read again", S::NAME);
            }
            Err(error) => tracing::error!(%error, "the {} stay as they were", S::NAME),
        }
    }
}

fn states(source: &impl Source) -> Vec<State> {
    let state = |path: &Path| {
        let metadata = std::fs::metadata(path).ok()?;
        Some((metadata.modified().ok()?, metadata.len()))
    };
    source.files().into_iter().map(state).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::path::PathBuf;

    use super::*;

    #[derive(Debug)]
    struct Number(PathBuf);

    impl Source for Number {
        type Value = u32;
        type Error = String;
        const NAME: &'static str = "numbers";

        fn files(&self) -> Vec<&Path> {
            vec![&self.0]
        }

        fn read(&self, _: Option<&u32>) -> Result<u32, String> {
            let text = std::fs::read_to_string(&self.0).map_err(|error| error.to_string())?;
            text.parse().map_err(|_| format!("'{text}' given, a number expected"))
        }
    }

    #[test]
    fn files_are_read_again_when_they_change_and_when_told() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("number");
        assert!(Watched::open(Number(path.clone())).is_err());
        std::fs::write(&path, "1").unwrap();
        let watched = Watched::open(Number(path.clone())).unwrap();
        let a_second_later = || watched.looked.lock().unwrap().at -= LOOK_INTERVAL;
        std::fs::write(&path, "22").unwrap();
        assert_eq!(*watched.get(), 1, "it was looked at a moment ago");
        a_second_later();
        assert_eq!(*watched.get(), 22);
        std::fs::write(&path, "broken").unwrap();
        a_second_later();
        assert_eq!(*watched.get(), 22);
        std::fs::remove_file(&path).unwrap();
        watched.read_again();
        assert_eq!(*watched.get(), 22);
        std::fs::write(&path, "4").unwrap();
        watched.read_again();
        assert_eq!(*watched.get(), 4);
    }
}

//! The pip source, with a script in pip's place.
#![cfg(unix)]

use crate::fakes::{assert_says, package, write_zip};
use std::{fs, path::Path};
use yantra_hub::{HubError, PackageSource, PipSource};

/// A pip that runs `script` for anything but `--version`.
fn pip(directory: &Path, script: &str) -> PipSource {
    let path = directory.join("pip.sh");
    fs::write(&path, format!("[ \"$1\" = --version ] && exit 0\n{script}\n")).unwrap();
    PipSource::with_command(vec!["sh".to_owned(), path.to_str().unwrap().to_owned()])
}

#[test]
fn a_wheel_is_fetched() {
    let place = tempfile::tempdir().unwrap();
    let into = place.path().join("into");
    fs::create_dir(&into).unwrap();
    write_zip(&place.path().join("made.zip"), &[("a".to_owned(), b"content".to_vec())]);
    // The last argument is the requirement, and the temporary directory is the one given.
    let script = "for last; do :; done; echo \"$last\" > \"$TMPDIR/asked\"; cp \"$(dirname \"$0\")/made.zip\" \"$TMPDIR/made.whl\"";
    let path = pip(place.path(), script).fetch(&package("some-package"), &into, &mut |_| true).unwrap();
    assert_eq!(path, into.join("made.whl"));
    assert_eq!(fs::read_to_string(into.join("asked")).unwrap(), "some-package==1.0\n");
}

#[test]
fn failures_are_told() {
    let place = tempfile::tempdir().unwrap();
    let fetch = |source: PipSource, go_on: bool| source.fetch(&package("x"), place.path(), &mut |_| go_on).unwrap_err();
    let failing = "echo 'WARNING: retrying' >&2; echo 'ERROR: No matching distribution found for x' >&2; exit 1";
    assert_says(fetch(pip(place.path(), failing), true), &["x==1.0", "ERROR: No matching distribution"]);
    assert_says(fetch(pip(place.path(), "exit 3"), true), &["x==1.0", "exit status: 3"]);
    assert_says(fetch(pip(place.path(), "exit 0"), true), &["x==1.0", "left no wheel"]);
    assert!(matches!(fetch(pip(place.path(), "exec sleep 60"), false), HubError::Cancelled));
    let missing = PipSource::with_command(vec!["no-such-program".to_owned()]);
    assert_says(fetch(missing, true), &["no pip found", "`no-such-program`", "install Python 3"]);
}

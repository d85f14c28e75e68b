//! A server of our own, mostly `yantra serve`: started, waited for, stopped.

use crate::{http, tools};
use anyhow::{Context, Result, bail};
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

/// Loading takes about a second; a machine that is busy building takes longer.
const READY_WITHIN: Duration = Duration::from_secs(180);

/// A running server; stopped when dropped.
pub(crate) struct Server {
    child: Child,
    port: u16,
    /// Answers 200 when the server is ready.
    ready_path: &'static str,
    log: PathBuf,
}

impl Server {
    /// Starts `binary serve ARGS` on `port` and waits until it is ready. Its log goes to a file named after `name`.
    pub(crate) fn start(binary: &Path, port: u16, args: &[&str], name: &str) -> Result<Self> {
        let mut command = Command::new(binary);
        command.arg("serve").args(args).args(["--host", "127.0.0.1", "--port", &port.to_string()]);
        command.env_remove("YANTRA_API_KEY").env_remove("YANTRA_CONFIG");
        Self::spawn(command, port, "/ready", name)
    }

    /// Starts any server that listens on `port` and says at `ready_path` when it is ready.
    pub(crate) fn spawn(mut command: Command, port: u16, ready_path: &'static str, name: &str) -> Result<Self> {
        let directory = tools::target_directory()?.join("xtask");
        fs::create_dir_all(&directory)?;
        let log = directory.join(format!("{name}.log"));
        let file = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let binary = PathBuf::from(command.get_program());
        command.current_dir(tools::root()).stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let child = command.spawn().with_context(|| format!("cannot start {}", binary.display()))?;
        let mut server = Self { child, port, ready_path, log };
        server.wait_until_ready()?;
        Ok(server)
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let started = Instant::now();
        while started.elapsed() < READY_WITHIN {
            if let Some(status) = self.child.try_wait()? {
                bail!("the server ended ({status}):\n{}", self.log_tail());
            }
            let ready = http::request(self.port, "GET", self.ready_path, "", Duration::from_secs(5));
            if matches!(ready, Ok((200, _))) {
                return Ok(());
            }
            sleep(Duration::from_millis(100));
        }
        bail!("the server was not ready within {} s:\n{}", READY_WITHIN.as_secs(), self.log_tail())
    }

    fn log_tail(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// The server's address.
    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// One question to `model`, answered.
    pub(crate) fn ask(&self, model: &str, question: &str) -> Result<String> {
        let body = serde_json::json!({
            "model": model,
            "messages": [{"role": "user", "content": question}],
            "temperature": 0,
            "max_tokens": 64,
        });
        let path = "/v1/chat/completions";
        let (status, reply) = http::request(self.port, "POST", path, &body.to_string(), Duration::from_secs(120))?;
        if status != 200 {
            bail!("{path} answered {status}: {reply}");
        }
        let reply: serde_json::Value = serde_json::from_str(&reply).context("the answer is not JSON")?;
        let answer = reply.pointer("/choices/0/message/content").and_then(|content| content.as_str());
        Ok(answer.with_context(|| format!("the answer has no text: {reply}"))?.to_owned())
    }

    /// Waits until the server ends by itself.
    pub(crate) fn wait(mut self) -> Result<()> {
        let status = self.child.wait()?;
        if !status.success() {
            bail!("the server ended ({status}):\n{}", self.log_tail());
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Gone already, or going: either way nothing is left to do about it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

//! One measurement of one engine: a process of its own, a warm-up, and the median of a few runs.

use super::{
    cases::{Case, Engine, Work},
    setup::{Peers, sources},
    state::{Check, Roofs, Serving, Sizes},
    statistics::median,
};
use crate::{
    http,
    server::Server,
    tools::{program, root},
};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Slots of llama.cpp's server, and tokens of each: 400 shared, 60 own, 64 written, and the template's.
const SLOTS: usize = 16;
const SLOT_TOKENS: usize = 1024;
/// The buffer whose reading is the roof of decoding: larger than any cache.
const ROOF_MEBIBYTES: &str = "256";

/// What measuring needs to know.
pub(crate) struct Bench<'a> {
    pub(crate) yantra: &'a Path,
    pub(crate) peers: &'a Peers,
    pub(crate) threads: usize,
    pub(crate) repeat: usize,
    /// Whether servers get fewer requests.
    pub(crate) quick: bool,
}

/// What a measurement gave.
pub(crate) struct Measured {
    pub(crate) value: f64,
    pub(crate) serving: Option<Serving>,
    /// The peer's own word.
    pub(crate) version: Option<String>,
}

impl Bench<'_> {
    /// Measures `engine` at `case`.
    pub(crate) fn measure(&self, case: &Case, engine: Engine) -> Result<Measured> {
        match (case.work, engine) {
            (Work::Serve { clients, requests }, _) => self.serve(case, engine, clients, requests),
            (_, Engine::Yantra) => self.ours(case),
            (Work::Embed { texts, tokens }, _) => self.transformers(case, texts, tokens),
            (work, _) => self.llama(case, engine, work),
        }
    }

    fn ours(&self, case: &Case) -> Result<Measured> {
        let number = |value: usize| value.to_string();
        let shape = match case.work {
            Work::Prompt { tokens, depth } => {
                vec!["engine".into(), "--prompt".into(), number(tokens), "--generate=0".into(), depth_flag(depth)]
            }
            Work::Generate { tokens, depth, batch } => vec![
                "engine".into(),
                "--prompt=0".into(),
                "--generate".into(),
                number(tokens),
                depth_flag(depth),
                format!("--batch={batch}"),
            ],
            Work::Embed { texts, tokens } => {
                vec!["embed".into(), "--sentences".into(), number(texts), "--tokens".into(), number(tokens)]
            }
            Work::Serve { .. } => bail!("a server is measured by clients"),
        };
        let mut command = Command::new(self.yantra);
        command.arg("bench").args(shape).args(["--repeat", &number(self.repeat), "--threads", &number(self.threads)]);
        let report = json(command.args(["--json", case.model.name]))?;
        Ok(Measured { value: median_of(&report["tests"][0]["runs"])?, serving: None, version: None })
    }

    fn llama_worker(&self, engine: Engine, model: &Path) -> Result<Command> {
        let module = engine.module().context("not a peer")?;
        let mut command = program(&self.peers.python, &["llama.py", "--package", module], &sources());
        command.arg("--model").arg(model).args(["--threads", &self.threads.to_string()]);
        if let (Engine::IkLlamaCpp, Some(library)) = (engine, &self.peers.ik_library) {
            command.env("IK_LLAMA_CPP_LIB_PATH", library);
        }
        command.env("PYTHONDONTWRITEBYTECODE", "1");
        Ok(command)
    }

    fn llama(&self, case: &Case, engine: Engine, work: Work) -> Result<Measured> {
        let (phase, tokens, depth, batch) = match work {
            Work::Prompt { tokens, depth } => ("prompt", tokens, depth, 1),
            Work::Generate { tokens, depth, batch } => ("generate", tokens, depth, batch),
            Work::Serve { .. } | Work::Embed { .. } => bail!("{} does not do this", engine.name()),
        };
        let mut command = self.llama_worker(engine, &self.model_path(case.model.name)?)?;
        command.args(["--phase", phase]);
        for (flag, value) in [("--tokens", tokens), ("--depth", depth), ("--batch", batch), ("--repeat", self.repeat)] {
            command.args([flag, &value.to_string()]);
        }
        from_worker(&json(&mut command)?, "tokens_per_second")
    }

    fn transformers(&self, case: &Case, texts: usize, tokens: usize) -> Result<Measured> {
        let mut command = program(&self.peers.python, &["transformers_embed.py", "--dtype=bfloat16"], &sources());
        command.arg("--model").arg(self.model_path(case.model.name)?).env("PYTHONDONTWRITEBYTECODE", "1");
        for (flag, value) in
            [("--texts", texts), ("--tokens", tokens), ("--repeat", self.repeat), ("--threads", self.threads)]
        {
            command.args([flag, &value.to_string()]);
        }
        from_worker(&json(&mut command)?, "sentences_per_second")
    }

    fn serve(&self, case: &Case, engine: Engine, clients: usize, requests: usize) -> Result<Measured> {
        let (port, threads) = (http::free_port()?, self.threads.to_string());
        let server = if engine == Engine::Yantra {
            Server::start(self.yantra, port, &[case.model.name, "--threads", &threads], "peers-yantra")?
        } else {
            let binary = self.peers.llama_server.as_ref().context("llama.cpp's server was not built")?;
            let (slots, context) = (SLOTS.to_string(), (SLOTS * SLOT_TOKENS).to_string());
            let mut command = Command::new(binary);
            command.arg("-m").arg(self.model_path(case.model.name)?).args(["-t", &threads, "-tb", &threads]);
            command.args(["-np", &slots, "-c", &context, "-fa", "on", "--host", "127.0.0.1"]);
            command.args(["--port", &port.to_string()]);
            Server::spawn(command, port, "/health", "peers-llama-server")?
        };
        let requests = if self.quick { clients.min(requests) } else { requests };
        let mut command = Command::new(self.yantra);
        command.args(["bench", "load", "--url", &server.url(), "--clients", &clients.to_string()]);
        let report = json(command.args(["--requests", &requests.to_string(), "--json"]))?;
        let figures = &report["servers"][0];
        let number = |pointer: &str| {
            figures.pointer(pointer).and_then(Value::as_f64).with_context(|| format!("the load test gave no {pointer}"))
        };
        let serving = Serving {
            ttft_p50_ms: number("/ttft_ms/p50")?,
            ttft_p99_ms: number("/ttft_ms/p99")?,
            failed: (number("/requests")? - number("/succeeded")?) as usize,
        };
        Ok(Measured { value: number("/output_tokens_per_second")?, serving: Some(serving), version: None })
    }

    /// Whether a peer's batched path computes what its small steps do.
    pub(crate) fn check(&self, engine: Engine, model: &str) -> Result<Check> {
        let mut command = self.llama_worker(engine, &self.model_path(model)?)?;
        Ok(serde_json::from_value(json(command.args(["--phase", "check"]))?)?)
    }

    fn inspect(&self, model: &str) -> Result<Value> {
        json(Command::new(self.yantra).args(["inspect", model, "--json", "--tensors"]))
    }

    fn model_path(&self, model: &str) -> Result<PathBuf> {
        let path = self.inspect(model)?;
        Ok(path["path"].as_str().context("`yantra inspect` gives no path")?.into())
    }

    pub(crate) fn sizes(&self, model: &str) -> Result<Sizes> {
        sizes(&self.inspect(model)?["tensors"]).with_context(|| format!("`yantra inspect {model}` lists no weights"))
    }

    /// What the hardware can do now, for a case; and its name.
    pub(crate) fn roofs(&self, case: &str, round: usize) -> Result<(Roofs, String)> {
        let mut command = Command::new(self.yantra);
        command.args(["bench", "hardware", "--json", "--memory", ROOF_MEBIBYTES]);
        let report = json(command.args(["--threads", &self.threads.to_string()]))?;
        let peak = |name: &str| {
            let found = report["arithmetic"].as_array()?.iter().find(|peak| peak["arithmetic"] == name)?;
            Some(found["all_threads_gop_per_second"].as_f64()? * 1e9)
        };
        let memory = report.pointer("/memory_read/0/all_threads/median_gb_per_second").and_then(Value::as_f64);
        let missing = "`yantra bench hardware` gave no figures";
        let roofs = Roofs {
            case: case.to_owned(),
            round,
            memory: memory.context(missing)? * 1e9,
            int8: peak("int8").context(missing)?,
            float: peak("bf16").or_else(|| peak("f32")).context(missing)?,
        };
        let level = report["cpu_level"].as_str().unwrap_or_default();
        Ok((roofs, format!("{} ({level})", report["processor"].as_str().unwrap_or_default())))
    }
}

fn depth_flag(depth: usize) -> String {
    format!("--depth={depth}")
}

fn from_worker(report: &Value, speeds: &str) -> Result<Measured> {
    let version = report["version"].as_str().map(str::to_owned);
    Ok(Measured { value: median_of(&report[speeds])?, serving: None, version })
}

fn median_of(runs: &Value) -> Result<f64> {
    let runs: Vec<f64> = runs.as_array().into_iter().flatten().filter_map(Value::as_f64).collect();
    median(&runs).context("nothing was measured")
}

/// Matrices of the body and the head; a matrix of embeddings that has no head beside it is the head too.
fn sizes(tensors: &Value) -> Option<Sizes> {
    let tensors = tensors.as_array()?;
    let (mut body, mut embeddings, mut head, mut bytes) = (0.0, None, None, 0.0);
    for tensor in tensors {
        let (name, shape) = (tensor["name"].as_str()?, tensor["shape"].as_array()?);
        let elements: f64 = shape.iter().filter_map(Value::as_f64).product();
        let size = tensor["bytes"].as_f64()?;
        if name.contains("token_embd") || name.contains("word_embeddings") || name.contains("embed_tokens") {
            embeddings = Some((elements, size));
            continue;
        }
        bytes += size;
        if name == "output.weight" || name.starts_with("lm_head") {
            head = Some(elements);
        } else if shape.len() == 2 && !name.contains("embeddings") && !name.contains("pooler") {
            body += elements;
        }
    }
    let (embedding_elements, embedding_bytes) = embeddings?;
    if head.is_none() {
        bytes += embedding_bytes;
    }
    (body > 0.0).then(|| Sizes { body, head: head.unwrap_or(embedding_elements), bytes })
}

/// Runs a command that prints JSON; what it says otherwise is shown only if it fails.
fn json(command: &mut Command) -> Result<Value> {
    let name = Path::new(command.get_program()).file_name().unwrap_or_default().to_string_lossy().into_owned();
    let arguments: Vec<_> = command.get_args().map(|argument| argument.to_string_lossy().into_owned()).collect();
    let text = format!("{name} {}", arguments.join(" "));
    if command.get_current_dir().is_none() {
        command.current_dir(root());
    }
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot start `{text}`"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let lines: Vec<&str> = said.lines().collect();
        bail!("`{text}` failed ({}):\n{}", output.status, lines[lines.len().saturating_sub(15)..].join("\n"));
    }
    serde_json::from_slice(&output.stdout).with_context(|| format!("`{text}` printed something that is not JSON"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    #[test]
    fn sizes_of_tied_and_untied_models() {
        let tied = json!([
            {"name": "token_embd.weight", "shape": [10, 4], "bytes": 50},
            {"name": "blk.0.attn_norm.weight", "shape": [4], "bytes": 16},
            {"name": "blk.0.attn_q.weight", "shape": [4, 4], "bytes": 20},
        ]);
        assert_eq!(sizes(&tied), Some(Sizes { body: 16.0, head: 40.0, bytes: 86.0 }));
        let mut untied = tied.clone();
        untied.as_array_mut().unwrap().push(json!({"name": "output.weight", "shape": [10, 4], "bytes": 40}));
        assert_eq!(sizes(&untied), Some(Sizes { body: 16.0, head: 40.0, bytes: 76.0 }));
        assert_eq!(sizes(&json!([])), None);
    }

    #[test]
    fn what_a_worker_prints() {
        let measured = from_worker(&json!({"tokens_per_second": [3.0, 1.0, 2.0], "version": "7"}), "tokens_per_second");
        let measured = measured.unwrap();
        assert_eq!((measured.value, measured.version.as_deref()), (2.0, Some("7")));
        assert!(from_worker(&json!({"tokens_per_second": []}), "tokens_per_second").is_err());
    }
}

//! `yantra serve`: load models and answer HTTP.

use crate::{
    config::{RawConfig, RawEngine, RawModel, Settings, otlp_endpoint, traces_mode},
    env,
    failure::usage,
    log::Log,
};
use anyhow::Result;
use std::path::PathBuf;

use super::reload::Reloading;

const EXAMPLES: &str = "\
Examples:
  yantra serve smollm2-135m
  yantra serve smollm2-135m minilm-l6 --name chat=smollm2-135m --name embed=minilm-l6
  yantra serve model.gguf --host 0.0.0.0 --port 9000 --api-key \"$KEY\"
  yantra serve model.gguf --tls-cert chain.pem --tls-key key.pem
  yantra serve smollm2-135m --lora support=./adapters/support
  yantra serve smollm2-135m --state-dir ./state
  yantra serve smollm2-135m --state-dir ./state --traces full
  yantra serve smollm2-135m --kv-spill ./spill --kv-spill-limit 8GiB
  yantra serve --config yantra.toml

A configuration file:
  [server]
  host = \"127.0.0.1\"
  port = 8080
  [engine]
  threads = 8
  kv_memory = \"2GiB\"
  [[models]]
  name = \"chat\"
  aliases = [\"gpt-4o-mini\"]
  model = \"smollm2-135m\"";

/// Serve models over an OpenAI-compatible HTTP API
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ServeArgs {
    /// Paths or catalogue names of the models
    #[arg(value_name = "MODEL")]
    models: Vec<String>,
    /// Name that requests use for a model; several for one model are the name and its aliases
    #[arg(long = "name", value_name = "NAME=MODEL")]
    names: Vec<String>,
    /// LoRA adapter of the first model, a PEFT directory or a GGUF file, and the name that requests use for it; may be given
    /// several times
    #[arg(long = "lora", value_name = "NAME=PATH")]
    loras: Vec<String>,
    /// TOML file [default: YANTRA_CONFIG]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Address to listen at [default: 127.0.0.1]
    #[arg(long, value_name = "ADDRESS")]
    host: Option<String>,
    /// Port to listen at; 0 takes a free one [default: 8080]
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    /// Accept only requests with this key; may be given several times
    #[arg(long = "api-key", value_name = "KEY")]
    api_keys: Vec<String>,
    /// Accept the keys of this file too, which `yantra keys` makes
    #[arg(long, value_name = "FILE")]
    keys_file: Option<PathBuf>,
    /// Answer HTTPS with the certificate of this PEM file, followed there by those that vouch for it; it is read again when
    /// it changes
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// PEM file of the certificate's private key
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Listen without keys where other machines can reach the server
    #[arg(long)]
    allow_no_auth: bool,
    /// Keep files and batches (/v1/files, /v1/batches) in this directory, which no other server may use; batches go on
    /// after a restart
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Keep what is asked and answered in the directory of --state-dir, to be searched and exported: off, sampled (a tenth,
    /// or as [server.traces] says) or full [default: off]
    #[arg(long, value_name = "MODE", value_parser = ["off", "sampled", "full"])]
    traces: Option<String>,
    /// Send traces to this OpenTelemetry collector, by OTLP over HTTP, such as http://localhost:4318 [default:
    /// OTEL_EXPORTER_OTLP_ENDPOINT]
    #[arg(long, value_name = "URL")]
    otlp_endpoint: Option<String>,
    #[command(flatten)]
    engine: RawEngine,
    /// Keep pages that leave the prefix cache in this directory and load them where that is faster than computing them; a
    /// restart finds them
    #[arg(long, value_name = "DIR")]
    kv_spill: Option<PathBuf>,
    /// Most that the directory of --kv-spill may hold; what was used longest ago goes first [default: 4GiB]
    #[arg(long, value_name = "SIZE")]
    kv_spill_limit: Option<String>,
}

/// Runs the command.
pub(crate) fn run(args: ServeArgs, log: &Log) -> Result<()> {
    let raw = raw(&args)?;
    let settings = settings(raw.clone())?;
    if settings.log.is_some() {
        log.set(settings.log.as_deref())?;
    }
    super::serving::run(&settings, Reloading { args, begun_with: raw, log: log.clone() })
}

/// What flags, file and environment say together.
pub(crate) fn raw(args: &ServeArgs) -> Result<RawConfig> {
    let file = match args.config.clone().or_else(env::config_path) {
        Some(path) => RawConfig::read(&path)?,
        None => RawConfig::default(),
    };
    let text = |path: &Option<PathBuf>| path.as_ref().map(|path| path.to_string_lossy().into_owned().into());
    let server = [
        ("host", args.host.clone().map(Into::into)),
        ("port", args.port.map(Into::into)),
        ("api_keys", (!args.api_keys.is_empty()).then(|| args.api_keys.clone().into())),
        ("keys_file", text(&args.keys_file)),
        ("tls_cert", text(&args.tls_cert)),
        ("tls_key", text(&args.tls_key)),
        ("state_dir", text(&args.state_dir)),
        ("allow_no_auth", args.allow_no_auth.then(|| true.into())),
        ("traces", args.traces.as_deref().map(traces_mode)),
        ("telemetry", args.otlp_endpoint.as_deref().map(otlp_endpoint)),
    ];
    let flags = RawConfig {
        server: server.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect(),
        engine: RawEngine {
            kv_spill: args.kv_spill.clone(),
            kv_spill_limit: args.kv_spill_limit.clone(),
            ..args.engine.clone()
        },
        models: models(args)?,
        ..RawConfig::default()
    };
    Ok(flags.over(file).over(env::config()?))
}

fn settings(raw: RawConfig) -> Result<Settings> {
    let settings = raw.validate()?;
    if settings.models.is_empty() && !settings.server.allow_model_changes() {
        return Err(usage("there is no model to serve: name one, as `yantra serve smollm2-135m`, or give --config"));
    }
    Ok(settings)
}

/// The models of the command line: those named by `--name NAME=MODEL`, and the others under their own names.
fn models(args: &ServeArgs) -> Result<Vec<RawModel>> {
    let mut models = Vec::new();
    for assignment in &args.names {
        let (name, model) = assignment
            .split_once('=')
            .filter(|(name, model)| !name.is_empty() && !model.is_empty())
            .ok_or_else(|| usage(format!("--name is `{assignment}`, expected NAME=MODEL")))?;
        match models.iter_mut().find(|known: &&mut RawModel| known.model.as_deref() == Some(model)) {
            Some(known) => known.aliases.push(name.into()),
            None => {
                models.push(RawModel { name: Some(name.into()), model: Some(model.into()), ..RawModel::default() });
            }
        }
    }
    for model in &args.models {
        // `serve M --name A=M` means one model, not two.
        if !models.iter().any(|named| named.model.as_ref() == Some(model)) {
            models.push(RawModel { model: Some(model.clone()), ..RawModel::default() });
        }
    }
    for assignment in &args.loras {
        let parts = assignment.split_once('=').filter(|(name, path)| !name.is_empty() && !path.is_empty());
        let (name, path) = parts.ok_or_else(|| usage(format!("--lora is `{assignment}`, expected NAME=PATH")))?;
        let model = models.first_mut().ok_or_else(|| usage("--lora is given without a model it belongs to"))?;
        if model.adapters.insert(name.into(), path.into()).is_some() {
            return Err(usage(format!("two adapters are named `{name}`")));
        }
    }
    Ok(models)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::config::KvSpill;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: ServeArgs,
    }

    fn parsed(line: &[&str]) -> Result<Settings> {
        settings(raw(&Line::parse_from([&["serve"], line].concat()).args)?)
    }

    #[test]
    fn names_are_given_to_models() {
        let settings = parsed(&["a.gguf", "b", "--name", "first=a.gguf", "--name", "third=c"]).unwrap();
        let models: Vec<_> = settings.models.iter().map(|model| (&*model.name, &*model.model)).collect();
        assert_eq!(models, [("first", "a.gguf"), ("third", "c"), ("b", "b")]);
        let settings = parsed(&["a", "--name", "x=a", "--name", "y=a", "--name", "z=a"]).unwrap();
        assert_eq!((settings.models.len(), &*settings.models[0].name), (1, "x"), "one model is loaded once");
        assert_eq!(settings.models[0].aliases, ["y", "z"]);
        assert!(parsed(&["--name", "x=a", "--name", "x=a"]).unwrap_err().to_string().contains("given twice"));
        assert!(parsed(&["--name", "x=a", "--name", "x=b"]).unwrap_err().to_string().contains("two models are named"));
        assert!(parsed(&["a", "--name", "wrong"]).unwrap_err().to_string().contains("NAME=MODEL"));
        assert!(parsed(&[]).unwrap_err().to_string().contains("no model to serve"));
    }

    #[test]
    fn adapters_belong_to_the_first_model() {
        let settings = parsed(&["a", "b", "--lora", "x=one", "--lora", "y=two=2"]).unwrap();
        let adapters = [("x".to_owned(), "one".into()), ("y".to_owned(), "two=2".into())];
        assert_eq!(settings.models[0].adapters, adapters);
        assert!(settings.models[1].adapters.is_empty());
        for line in [&["a", "--lora", "x"][..], &["a", "--lora", "=x"], &["a", "--lora", "x=a", "--lora", "x=b"]] {
            assert!(parsed(line).is_err(), "{line:?}");
        }
    }

    #[test]
    fn other_machines_need_keys_or_a_word() {
        let error = parsed(&["a", "--host", "0.0.0.0"]).unwrap_err().to_string();
        assert!(error.contains("without API keys") && error.contains("--allow-no-auth"), "{error}");
        parsed(&["a", "--host", "0.0.0.0", "--api-key", "long-enough"]).unwrap();
        parsed(&["a", "--host", "0.0.0.0", "--allow-no-auth"]).unwrap();
        parsed(&["a", "--host", "::1"]).unwrap();
    }

    #[test]
    fn spilled_pages_have_a_directory_and_a_limit() {
        let spill =
            |line: &[&str]| parsed(&[&["a"], line].concat()).map(|settings| settings.models[0].engine.kv_spill.clone());
        assert_eq!(spill(&[]).unwrap(), None);
        let given = |limit_bytes| Some(KvSpill { directory: "d".into(), limit_bytes });
        assert_eq!(spill(&["--kv-spill", "d"]).unwrap(), given(4 << 30));
        assert_eq!(spill(&["--kv-spill", "d", "--kv-spill-limit", "512MiB"]).unwrap(), given(512 << 20));
        for (wrong, part) in [("0", "`0`, expected a size"), ("much", "`much`, expected a size")] {
            let error = spill(&["--kv-spill", "d", "--kv-spill-limit", wrong]).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
        let error = spill(&["--kv-spill-limit", "1GiB"]).unwrap_err().to_string();
        assert!(error.contains("no directory to limit"), "{error}");
    }

    #[test]
    fn traces_go_where_the_flag_says() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("yantra.toml");
        let file = "[server.telemetry]\notlp_endpoint = 'http://file:4318'\ncontent = true\n[[models]]\nmodel = 'm'\n";
        std::fs::write(&path, file).unwrap();
        let server = |line: &[&str]| {
            let settings =
                parsed(&[&["--config", path.to_str().unwrap()], line].concat()).map(|settings| settings.server);
            settings.map(|server| format!("{server:?}"))
        };
        assert!(server(&[]).unwrap().contains("http://file:4318/v1/traces"));
        let flag = server(&["--otlp-endpoint", "http://flag:4318"]).unwrap();
        assert!(flag.contains("http://flag:4318/v1/traces") && flag.contains("content: true"), "{flag}");
        assert!(server(&["--otlp-endpoint", ""]).unwrap().contains("telemetry: None"), "empty: no traces");
        let error = server(&["--otlp-endpoint", "flag:4318"]).unwrap_err().to_string();
        assert!(error.contains("'telemetry.otlp_endpoint': 'flag:4318' given"), "{error}");
    }

    #[test]
    fn what_is_asked_is_kept_where_there_is_a_place_for_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("yantra.toml");
        std::fs::write(&path, "[server]\nstate_dir = 's'\n[server.traces]\nmode = 'full'\nretention_days = 7\n")
            .unwrap();
        let server = |line: &[&str]| parsed(&[&["m"], line].concat()).map(|settings| format!("{:?}", settings.server));
        let error = server(&["--traces", "full"]).unwrap_err().to_string();
        assert!(error.contains("'traces.mode'") && error.contains("--state-dir"), "{error}");
        assert!(server(&["--traces", "off"]).unwrap().contains("traces: None"));
        let config = ["--config", path.to_str().unwrap()];
        assert!(server(&config).unwrap().contains("sample_rate: None, retention: 604800s"));
        let sampled = server(&[&config[..], &["--traces", "sampled"]].concat()).unwrap();
        assert!(sampled.contains("sample_rate: Some(0.1), retention: 604800s"), "{sampled}");
        assert!(server(&[&config[..], &["--traces", "off"]].concat()).unwrap().contains("traces: None"));
    }

    #[test]
    fn flags_win_over_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("yantra.toml");
        std::fs::write(&path, "[server]\nport = 1\n[engine]\nthreads = 3\n[[models]]\nmodel = \"m\"\ncontext = 64\n")
            .unwrap();
        let settings = parsed(&["--config", path.to_str().unwrap(), "--port", "2"]).unwrap();
        assert_eq!((&*settings.server.address(), settings.engine.threads), ("127.0.0.1:2", Some(3)));
        assert_eq!((settings.models[0].engine.context, settings.models[0].engine.threads), (Some(64), Some(3)));
    }
}

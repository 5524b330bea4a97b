//! From flags to settings: which flag sets which key, and the configuration of a command.

use toml::Value;

use super::args::{Cli, Command, Common, Serve, StreamCounts, Streams};
use crate::config::{self, Config, ConfigError, FlagValue};
use crate::log::connect::NatsOptions;

/// The log filter of commands that a person runs and waits for.
const QUIET: &str = "warn";

/// The configuration of this command line.
pub fn load(cli: &Cli) -> Result<Config, ConfigError> {
    let mut flags = Flags(Vec::new());
    flags.common(&cli.common);
    match &cli.command {
        Command::Serve(serve) => flags.serve(serve),
        Command::Streams(Streams::Apply(count) | Streams::Check(count)) => flags.streams(count),
        Command::Simulate(simulate) => {
            flags.text("http.url", "--url", simulate.url.as_ref());
            flags.text("http.key", "--key", simulate.key.as_ref());
        }
        _ => {}
    }
    let serving = matches!(cli.command, Command::Serve(_));
    let env = |name: &str| std::env::var(name).ok();
    let config_says_log = cli.common.log.is_some() || env("ADTALLY_LOG").is_some();
    let misspelt = std::env::vars_os().find_map(|(name, _)| {
        let name = name.into_string().ok()?;
        config::settings::misspelt_variable(&name).map(|nearest| (name, nearest))
    });
    if let Some((name, nearest)) = misspelt {
        return Err(ConfigError::UnknownVariable { name, nearest });
    }
    let mut config = config::load(cli.common.config.as_deref(), env, flags.0)?;
    if !serving && !config_says_log && config.log == Config::default().log {
        config.log = QUIET.into();
    }
    Ok(config)
}

struct Flags(Vec<FlagValue>);

impl Flags {
    fn text(&mut self, key: &'static str, flag: &'static str, value: Option<&impl ToString>) {
        if let Some(value) = value {
            self.0.push(FlagValue {
                key,
                flag,
                value: Value::String(value.to_string()),
            });
        }
    }

    fn path(&mut self, key: &'static str, flag: &'static str, value: Option<&std::path::PathBuf>) {
        self.text(key, flag, value.map(|p| p.display().to_string()).as_ref());
    }

    fn common(&mut self, common: &Common) {
        self.path("data_dir", "--data-dir", common.data_dir.as_ref());
        self.text("log", "--log", common.log.as_ref());
        if common.json {
            self.0.push(FlagValue {
                key: "json",
                flag: "--json",
                value: Value::Boolean(true),
            });
        }
        self.nats(&common.nats);
    }

    fn nats(&mut self, nats: &NatsOptions) {
        self.text("nats.url", "--server", nats.server.as_ref());
        self.text("nats.context", "--context", nats.context.as_ref());
        self.path("nats.creds", "--creds", nats.creds.as_ref());
        self.text("nats.user", "--user", nats.user.as_ref());
        self.text("nats.password", "--password", nats.password.as_ref());
        self.path("nats.tlsca", "--tlsca", nats.tlsca.as_ref());
        self.path("nats.tlscert", "--tlscert", nats.tlscert.as_ref());
        self.path("nats.tlskey", "--tlskey", nats.tlskey.as_ref());
    }

    fn serve(&mut self, serve: &Serve) {
        self.text("listen", "--listen", serve.listen.as_ref());
        self.streams(&serve.streams);
        if !serve.roles.is_empty() {
            let roles = serve
                .roles
                .iter()
                .map(|r| Value::String(r.trim().into()))
                .collect();
            self.0.push(FlagValue {
                key: "roles",
                flag: "--roles",
                value: Value::Array(roles),
            });
        }
    }

    fn streams(&mut self, count: &StreamCounts) {
        let flags = [
            ("streams.shards", "--shards", count.shards.map(i64::from)),
            (
                "streams.replicas",
                "--replicas",
                count.replicas.map(i64::from),
            ),
        ];
        for (key, flag, value) in flags {
            if let Some(n) = value {
                self.0.push(FlagValue {
                    key,
                    flag,
                    value: Value::Integer(n),
                });
            }
        }
    }
}

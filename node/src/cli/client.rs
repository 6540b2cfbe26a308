//! What every client verb shares: which servers, which namespace, how long, and how to print.

use super::exit::Trouble;
use super::output::Output;
use crate::config::{ClientConfig, Given, Layers, Problem, load};
use clap::{Args, ValueEnum};
use std::path::PathBuf;
use std::time::Duration;
use understudy_client::{Client, Namespace, Settings};

/// The flags of every client verb. Flag over environment over file over default.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Client")]
pub struct ClientFlags {
    /// http://host:port of some nodes or managers, in the order in which they are asked [UNDERSTUDY_ENDPOINTS]
    #[arg(long, short = 'e', value_name = "LIST", value_delimiter = ',')]
    pub endpoints: Option<Vec<String>>,
    /// The namespace of the objects [UNDERSTUDY_NAMESPACE; default: default]
    #[arg(long, short = 'n', value_name = "NAME")]
    pub namespace: Option<String>,
    /// Where this client is [UNDERSTUDY_SITE]
    #[arg(long, value_name = "SITE")]
    pub site: Option<String>,
    /// How long a call may take over all its attempts [UNDERSTUDY_DEADLINE_MS; default: 10000]
    #[arg(long, value_name = "NUMBER")]
    pub deadline_ms: Option<u64>,
    /// How to print [UNDERSTUDY_OUTPUT; default: table]
    #[arg(long, short = 'o', value_name = "HOW")]
    pub output: Option<OutputFlag>,
    /// A TOML file with these settings [UNDERSTUDY_CLIENT_CONFIG]
    #[arg(
        long,
        value_name = "FILE",
        env = "UNDERSTUDY_CLIENT_CONFIG",
        hide_env = true
    )]
    pub config: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OutputFlag {
    Table,
    Json,
}

/// A verb's settings, and the client made of them.
#[derive(Debug)]
pub struct Context {
    pub client: Client,
    pub output: Output,
    namespace: String,
}

impl ClientFlags {
    /// The settings; nothing is asked of anybody yet.
    pub fn settings(&self) -> Result<ClientConfig, Trouble> {
        let layers = Layers::from_process(self.config.clone(), self.given());
        let loaded = load::<ClientConfig>(&layers).map_err(|problems| wrong_settings(&problems))?;
        match loaded.config.validate() {
            problems if problems.is_empty() => Ok(loaded.config),
            problems => Err(wrong_settings(&problems)),
        }
    }

    /// A client of these settings.
    pub async fn connect(&self) -> Result<Context, Trouble> {
        let config = self.settings()?;
        let settings = Settings {
            site: config.site,
            deadline: Duration::from_millis(config.deadline_ms),
            ..Settings::default()
        };
        let client = Client::connect_with(&config.endpoints, settings).await;
        Ok(Context {
            client: client.map_err(|error| Trouble::of("--endpoints", &error))?,
            output: match config.output.as_str() {
                "json" => Output::Json,
                _ => Output::Table,
            },
            namespace: config.namespace,
        })
    }

    pub fn given(&self) -> Vec<Given> {
        let output = self.output.map(|output| match output {
            OutputFlag::Table => "table".to_string(),
            OutputFlag::Json => "json".to_string(),
        });
        let all = [
            (
                "endpoints",
                self.endpoints.as_ref().map(|list| list.join(",")),
            ),
            ("namespace", self.namespace.clone()),
            ("site", self.site.clone()),
            (
                "deadline_ms",
                self.deadline_ms.map(|number| number.to_string()),
            ),
            ("output", output),
        ];
        let given = all.into_iter().filter_map(|(key, text)| {
            Some(Given {
                key: key.to_string(),
                text: text?,
                flag: format!("--{}", key.replace('_', "-")),
            })
        });
        given.collect()
    }
}

impl Context {
    pub fn namespace(&self) -> Namespace {
        self.client.namespace(&self.namespace)
    }

    pub fn namespace_name(&self) -> &str {
        &self.namespace
    }
}

/// All problems, one a line.
pub fn wrong_settings(problems: &[Problem]) -> Trouble {
    let texts: Vec<String> = problems.iter().map(Problem::to_string).collect();
    Trouble::usage(texts.join("\nerror: "), "")
}

//! `understudy export`: writes all objects as JSON lines that `import` reads.
//!
//! Consistent inside a shard and page only: a namespace that is written to meanwhile is not one moment.

use super::bytes::Encoding;
use super::client::ClientFlags;
use super::exit::{Ended, Exit, Trouble};
use super::output::Progress;
use super::show::object_json;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

/// Write all objects as JSON lines.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only keys that start so
    #[arg(default_value = "")]
    prefix: String,
    /// Write to this file, which must not exist; without it to standard output
    #[arg(long, short = 'f', value_name = "FILE")]
    file: Option<PathBuf>,
    /// How the prefix is written
    #[arg(long, value_enum, default_value_t)]
    encoding: Encoding,
    #[command(flatten)]
    client: ClientFlags,
}

pub async fn run(args: Args) -> Ended {
    let context = args.client.connect().await?;
    let prefix = args.encoding.decode("the prefix", &args.prefix)?;
    let mut scan = context.namespace().scan().prefix(prefix).page_size(10_000);
    let mut page = scan
        .next_page()
        .await
        .map_err(|error| Trouble::of("the export", &error))?;
    let mut out = args.open()?;
    let mut progress = Progress::new();
    let mut count = 0_u64;
    while let Some(objects) = page {
        for object in &objects.objects {
            writeln!(out, "{}", object_json(object))?;
            count += 1;
        }
        progress.tell(|| format!("{count} objects"));
        page = scan
            .next_page()
            .await
            .map_err(|error| Trouble::of("the export", &error))?;
    }
    out.flush()?;
    drop(progress);
    eprintln!("{count} objects written");
    Ok(Exit::Done)
}

impl Args {
    /// Never over what is there.
    fn open(&self) -> Result<Box<dyn Write + Send>, Trouble> {
        let Some(path) = &self.file else {
            return Ok(Box::new(BufWriter::new(io::stdout())));
        };
        match File::create_new(path) {
            Ok(file) => Ok(Box::new(BufWriter::new(file))),
            Err(error) => {
                let what = format!("{} cannot be made", path.display());
                Err(Trouble::new(
                    Exit::Usage,
                    what,
                    error.to_string(),
                    "name a file that is not there yet",
                ))
            }
        }
    }
}

//! `understudy put`: writes one object, or one component of it.

use super::bytes::Encoding;
use super::client::ClientFlags;
use super::exit::{Ended, Exit, Trouble};
use super::write::{ConditionFlags, WriteFlags, named, send};
use bytes::Bytes;
use std::io::Read;
use std::path::PathBuf;
use understudy_proto::limits::VALUE_BYTES_MAX;

/// Write one object.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The object's key
    key: String,
    /// Its value; `-` or nothing reads standard input, as it is
    #[arg(allow_negative_numbers = true)]
    value: Option<String>,
    /// Read the value from a file, as it is
    #[arg(long, short = 'f', value_name = "FILE", conflicts_with = "value")]
    file: Option<PathBuf>,
    /// Set only this component, and leave the others
    #[arg(long, short = 'c', value_name = "NAME")]
    component: Option<String>,
    /// How the key and the value on the command line are written
    #[arg(long, value_enum, default_value_t)]
    encoding: Encoding,
    #[command(flatten)]
    condition: ConditionFlags,
    #[command(flatten)]
    write: WriteFlags,
    #[command(flatten)]
    client: ClientFlags,
}

pub async fn run(args: Args) -> Ended {
    let key = args.encoding.decode("the key", &args.key)?;
    let value = args.value()?;
    let context = args.client.connect().await?;
    let namespace = context.namespace();
    let write = match &args.component {
        Some(name) => namespace.set_component(key.clone(), name.clone(), value),
        None => namespace.put(key.clone(), value),
    };
    let write = args.condition.apply(write, &key);
    send(&context, write, &args.write, &named("put", &key)).await
}

impl Args {
    fn value(&self) -> Result<Bytes, Trouble> {
        if let Some(path) = &self.file {
            let file = std::fs::File::open(path);
            return read_value(file, &path.display().to_string());
        }
        match self.value.as_deref() {
            None | Some("-") => read_value(Ok(std::io::stdin()), "standard input"),
            Some(text) => self.encoding.decode("the value", text),
        }
    }
}

/// Never reads more than a value may have, and one byte that tells that it is too long.
fn read_value(from: std::io::Result<impl Read>, name: &str) -> Result<Bytes, Trouble> {
    let mut value = Vec::new();
    let read = from.and_then(|from| {
        from.take(VALUE_BYTES_MAX as u64 + 1)
            .read_to_end(&mut value)
    });
    if let Err(error) = read {
        let what = format!("{name} cannot be read");
        return Err(Trouble::new(
            Exit::Usage,
            what,
            error.to_string(),
            "nothing was changed",
        ));
    }
    Ok(Bytes::from(value))
}

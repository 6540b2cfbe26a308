//! `understudy delete`: removes one object, or one component of it. Removing what is absent is no error.

use super::bytes::Encoding;
use super::client::ClientFlags;
use super::exit::Ended;
use super::write::{ConditionFlags, WriteFlags, named, send};

/// Remove one object, or one component of it.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The object's key
    key: String,
    /// Remove only this component
    #[arg(long, short = 'c', value_name = "NAME")]
    component: Option<String>,
    /// How the key on the command line is written
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
    let context = args.client.connect().await?;
    let namespace = context.namespace();
    let write = match &args.component {
        Some(name) => namespace.remove_component(key.clone(), name.clone()),
        None => namespace.delete(key.clone()),
    };
    let write = args.condition.apply(write, &key);
    send(&context, write, &args.write, &named("delete", &key)).await
}

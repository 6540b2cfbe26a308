//! Write, read and scan. Needs a cluster (`understudy dev`) with a namespace `shop`:
//! `cargo run -p understudy-client --example quickstart -- http://127.0.0.1:7420`

use futures::TryStreamExt;
use understudy_client::{Client, Error, ReadLevel};

#[tokio::main]
async fn main() -> Result<(), Error> {
    let endpoint = std::env::args().nth(1);
    let client = Client::connect([endpoint.as_deref().unwrap_or("http://127.0.0.1:7420")]).await?;
    let shop = client.namespace("shop");

    let written = shop.put("apple", "3 baskets").await?;
    println!("wrote {} as {}", written.request_id, written.pair);

    // Any copy that has reached what this session wrote.
    let apple = shop.get("apple").level(ReadLevel::Session).await?;
    println!(
        "apple: {:?}",
        apple.and_then(|apple| apple.value().cloned())
    );

    // Components of one object are written on their own.
    shop.set_component("apple", "colour", "red").await?;
    shop.add("apple", "sold", 2).await?;

    let objects = shop.scan().prefix("a").objects();
    let keys: Vec<_> = objects.map_ok(|object| object.key).try_collect().await?;
    println!("keys: {keys:?}");
    Ok(())
}

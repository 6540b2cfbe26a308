//! Counts exactly: an *outcome unknown* is asked again under the same id, so nothing is counted twice.
//! Needs a cluster with a namespace `shop`; kill its servers while it runs.

use understudy_client::{Class, Client, Error, Namespace, Written};

#[tokio::main]
async fn main() -> Result<(), Error> {
    let client = Client::connect(["http://127.0.0.1:7420", "http://127.0.0.1:7430"]).await?;
    let shop = client.namespace("shop");
    for _ in 0..1_000 {
        let counted = count(&shop).await?;
        println!("{:?} (again: {})", counted.counter(), counted.duplicate);
    }
    Ok(())
}

async fn count(shop: &Namespace) -> Result<Written, Error> {
    let id = shop.session().next_request_id();
    loop {
        let add = shop.add("visits", "total", 1).request_id(id);
        match add.await {
            // It may have run: the same id gets its one outcome.
            Err(error @ Error::OutcomeUnknown { .. }) => eprintln!("asking again: {error}"),
            // It did not run, and may be sent again.
            Err(error) if error.class() == Class::Unavailable => eprintln!("waiting: {error}"),
            other => return other,
        }
    }
}

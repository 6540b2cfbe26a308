//! Moves money between two accounts of one shard: read, compute, write under the condition that nobody else did, else
//! begin again. Needs a cluster with a namespace `bank`.

use bytes::Bytes;
use understudy_client::{Client, Error, Namespace, Object};

/// Both keys have the tag 7, so they are in one shard.
const FROM: &str = "{7}alice";
const TO: &str = "{7}bob";

#[tokio::main]
async fn main() -> Result<(), Error> {
    let client = Client::connect(["http://127.0.0.1:7420"]).await?;
    let bank = client.namespace("bank");
    bank.transaction()
        .put(FROM, "100")
        .put(TO, "0")
        .if_absent(FROM)
        .await?;
    match transfer(&bank, 30).await? {
        true => println!("moved"),
        false => println!("not enough money"),
    }
    Ok(())
}

async fn transfer(bank: &Namespace, amount: u64) -> Result<bool, Error> {
    loop {
        let found = bank.read([FROM, TO]).await?;
        let [Some(from), Some(to)] = found.objects.as_slice() else {
            return Ok(false);
        };
        let Some(rest) = balance(from).checked_sub(amount) else {
            return Ok(false);
        };
        // The pairs name the records that were read: a change by anybody else makes the condition fail.
        let write = bank
            .transaction()
            .if_pair(FROM, from.pair)
            .if_pair(TO, to.pair)
            .put(FROM, rest.to_string())
            .put(TO, (balance(to) + amount).to_string());
        if write.await?.applied() {
            return Ok(true);
        }
    }
}

fn balance(account: &Object) -> u64 {
    let digits = |value: &Bytes| std::str::from_utf8(value).ok()?.parse().ok();
    account.value().and_then(digits).unwrap_or(0)
}

//! How the manager group's structures become bytes, on disk and between managers.
//!
//! One leading byte names the format, so that a later one can be told apart; format 1 is MessagePack with field names,
//! which lets a later version add fields. Nothing here knows what it encodes.

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};
use std::io;

const FORMAT_MSGPACK: u8 = 1;

pub(crate) fn encode<T: Serialize>(value: &T) -> io::Result<Vec<u8>> {
    let mut bytes = vec![FORMAT_MSGPACK];
    rmp_serde::encode::write_named(&mut bytes, value)
        .map_err(|error| io::Error::other(format!("a structure does not encode: {error}")))?;
    Ok(bytes)
}

pub(crate) fn encode_bytes<T: Serialize>(value: &T) -> io::Result<Bytes> {
    encode(value).map(Bytes::from)
}

pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> io::Result<T> {
    match bytes.split_first() {
        Some((&FORMAT_MSGPACK, rest)) => rmp_serde::from_slice(rest)
            .map_err(|error| invalid(format!("it does not decode: {error}"))),
        Some((format, _)) => Err(invalid(format!(
            "format {format} is not known to this version"
        ))),
        None => Err(invalid("it is empty".to_string())),
    }
}

pub(crate) fn invalid(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_structure_comes_back_and_another_format_is_refused() {
        let bytes = encode(&(7u64, "x")).unwrap();
        assert_eq!(
            decode::<(u64, String)>(&bytes).unwrap(),
            (7, "x".to_string())
        );
        assert!(decode::<u64>(&[9, 0]).is_err());
        assert!(decode::<u64>(&[]).is_err());
    }
}

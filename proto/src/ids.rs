//! Newtypes for every id and count that could be swapped with another, with how each is shown and parsed.
//!
//! What identifies a record is never a version alone but the [`Pair`] (epoch, version), ordered epoch first.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

macro_rules! counter {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl $name {
            pub const ZERO: $name = $name(0);

            /// The next one. Panics at the end of u64, which no run reaches.
            #[must_use]
            pub fn next(self) -> $name {
                $name(self.0.checked_add(1).expect(concat!(stringify!($name), " exhausted")))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl From<u64> for $name {
            fn from(value: u64) -> Self {
                $name(value)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                text.parse().map($name).map_err(|_| InvalidId::new(stringify!($name), text))
            }
        }
    };
}

counter!(
    /// A data node or a manager; given by the manager group at the first join, never reused.
    NodeId
);
counter!(
    /// A shard, unique over all namespaces for the life of the cluster, never reused.
    ShardId
);
counter!(
    /// A namespace, never reused, also not by one that is made again under the same name.
    NamespaceId
);
counter!(
    /// A process start of a node; raised by the manager at each registration.
    Incarnation
);
counter!(
    /// A shard's counter of configurations; every change of its primary raises it.
    Epoch
);
counter!(
    /// A shard's counter of update attempts.
    Version
);
counter!(
    /// A revision of a table or of one of its entries.
    Revision
);
counter!(
    /// A client's number of a request, from 1.
    Sequence
);

macro_rules! wide {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub u128);

        impl $name {
            pub fn to_bytes(self) -> [u8; 16] {
                self.0.to_be_bytes()
            }

            /// Exactly 16 bytes, big-endian; anything else is no id.
            pub fn from_slice(bytes: &[u8]) -> Option<Self> {
                <[u8; 16]>::try_from(bytes).ok().map(|bytes| $name(u128::from_be_bytes(bytes)))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let hex = format!("{:032x}", self.0);
                write!(f, "{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                let hex: String = text.chars().filter(|c| *c != '-').collect();
                if hex.len() != 32 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
                    return Err(InvalidId::new(stringify!($name), text));
                }
                u128::from_str_radix(&hex, 16).map($name).map_err(|_| InvalidId::new(stringify!($name), text))
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                if s.is_human_readable() { s.collect_str(self) } else { s.serialize_bytes(&self.to_bytes()) }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                if d.is_human_readable() {
                    String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
                } else {
                    let bytes = bytes::Bytes::deserialize(d)?;
                    $name::from_slice(&bytes).ok_or_else(|| serde::de::Error::custom("an id has 16 bytes"))
                }
            }
        }
    };
}

wide!(
    /// A client: a UUIDv7 that the client makes itself.
    ClientId
);
wide!(
    /// A node's data folder; drawn when it is created, discarded or restored.
    StoreId
);
wide!(
    /// The cluster; drawn when the first manager initialises the group.
    ClusterId
);

impl ClientId {
    /// A UUIDv7 (RFC 9562, section 5.7) from a time in milliseconds since 1970 and 74 random bits.
    pub fn from_parts(unix_ms: u64, random: u128) -> ClientId {
        let rand_a = (random >> 62) & 0xfff;
        let rand_b = random & ((1 << 62) - 1);
        ClientId((u128::from(unix_ms) << 80) | (0x7 << 76) | (rand_a << 64) | (0b10 << 62) | rand_b)
    }

    /// The time that the client wrote into its id, in milliseconds since 1970.
    pub fn unix_ms(self) -> u64 {
        (self.0 >> 80) as u64
    }

    /// Whether the id has the version and variant bits of a UUIDv7.
    pub fn is_uuid_v7(self) -> bool {
        (self.0 >> 76) & 0xf == 7 && (self.0 >> 62) & 0b11 == 0b10
    }
}

/// Names an update for ever: a retry bears the same one, and runs not again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct RequestId {
    pub client: ClientId,
    pub sequence: Sequence,
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.client, self.sequence)
    }
}

impl FromStr for RequestId {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let invalid = || InvalidId::new("RequestId", text);
        let (client, sequence) = text.split_once(':').ok_or_else(invalid)?;
        Ok(RequestId {
            client: client.parse().map_err(|_| invalid())?,
            sequence: sequence.parse().map_err(|_| invalid())?,
        })
    }
}

/// What identifies a record of a shard: (epoch, version), ordered epoch first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Pair {
    pub epoch: Epoch,
    pub version: Version,
}

impl Pair {
    /// Before the first record.
    pub const ZERO: Pair = Pair {
        epoch: Epoch(0),
        version: Version(0),
    };

    pub fn new(epoch: u64, version: u64) -> Pair {
        Pair {
            epoch: Epoch(epoch),
            version: Version(version),
        }
    }
}

impl fmt::Display for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch, self.version)
    }
}

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Pair {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let invalid = || InvalidId::new("EPOCH.VERSION", text);
        let (epoch, version) = text.split_once('.').ok_or_else(invalid)?;
        Ok(Pair {
            epoch: epoch.parse().map_err(|_| invalid())?,
            version: version.parse().map_err(|_| invalid())?,
        })
    }
}

/// A copy's place: tables name a copy by (node, store), so that a discarded store is a new copy.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct CopyId {
    pub node: NodeId,
    pub store: StoreId,
}

impl fmt::Display for CopyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{:08x}", self.node, (self.store.0 >> 96) as u32)
    }
}

/// One process: a copy's place and the start of the process that holds it. Leases are for exactly one of these.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct ProcessId {
    pub node: NodeId,
    pub store: StoreId,
    pub incarnation: Incarnation,
}

impl ProcessId {
    pub fn copy(self) -> CopyId {
        CopyId {
            node: self.node,
            store: self.store,
        }
    }
}

impl fmt::Display for ProcessId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.copy(), self.incarnation)
    }
}

/// A text that is not the id it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidId {
    kind: &'static str,
    text: String,
}

impl InvalidId {
    fn new(kind: &'static str, text: &str) -> InvalidId {
        InvalidId {
            kind,
            text: text.chars().take(80).collect(),
        }
    }
}

impl fmt::Display for InvalidId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "'{}' is no {}", self.text, self.kind)
    }
}

impl std::error::Error for InvalidId {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_id_keeps_its_time_and_is_a_uuid_v7() {
        let id = ClientId::from_parts(1_795_365_000_123, u128::MAX);
        assert!(id.is_uuid_v7());
        assert_eq!(id.unix_ms(), 1_795_365_000_123);
        assert_eq!(id.to_string().parse::<ClientId>(), Ok(id));
        assert_eq!(ClientId::from_slice(&id.to_bytes()), Some(id));
        assert_eq!(&id.to_string()[14..15], "7");
    }

    #[test]
    fn what_is_no_id_is_refused_by_name() {
        assert!("12:x".parse::<RequestId>().is_err());
        assert!("1-2".parse::<Pair>().is_err());
        let error = "zz".parse::<ClientId>().unwrap_err();
        assert_eq!(error.to_string(), "'zz' is no ClientId");
        assert_eq!(ClientId::from_slice(&[0; 15]), None);
        assert!("é".repeat(16).parse::<ClientId>().is_err());
    }

    #[test]
    fn pairs_order_epoch_first() {
        assert!(Pair::new(2, 1) > Pair::new(1, 9));
        assert_eq!("3.14".parse::<Pair>(), Ok(Pair::new(3, 14)));
    }
}

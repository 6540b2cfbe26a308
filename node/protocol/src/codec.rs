//! Writing and reading the stored forms: fixed-width big-endian numbers, varints for lengths, nothing implicit.
//!
//! A [`Reader`] never panics and never reads past its end: damaged or hostile bytes are a [`Malformed`]. Byte strings are
//! slices of the input, not copies.

use bytes::{BufMut, Bytes, BytesMut};
use std::fmt;
use understudy_proto::{ClientId, Sequence};
use understudy_proto::{Epoch, Pair, RequestId, Version};

/// Bytes that are not what they should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "malformed: {}", self.0)
    }
}

impl std::error::Error for Malformed {}

/// Appends the primitive forms to a buffer.
pub trait Put: BufMut {
    /// LEB128, at most 10 bytes.
    fn put_varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.put_u8(value as u8 | 0x80);
            value >>= 7;
        }
        self.put_u8(value as u8);
    }

    /// A signed number, zigzag.
    fn put_signed(&mut self, value: i64) {
        self.put_varint(((value << 1) ^ (value >> 63)) as u64);
    }

    fn put_bytes_field(&mut self, bytes: &[u8]) {
        self.put_varint(bytes.len() as u64);
        self.put_slice(bytes);
    }

    fn put_pair(&mut self, pair: Pair) {
        self.put_varint(pair.epoch.0);
        self.put_varint(pair.version.0);
    }

    fn put_request_id(&mut self, id: RequestId) {
        self.put_slice(&id.client.to_bytes());
        self.put_varint(id.sequence.0);
    }
}

impl Put for BytesMut {}
impl Put for Vec<u8> {}

/// Reads the primitive forms from shared bytes.
#[derive(Debug, Clone)]
pub struct Reader {
    rest: Bytes,
}

impl Reader {
    pub fn new(bytes: Bytes) -> Reader {
        Reader { rest: bytes }
    }

    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// Everything was read; else the bytes have a tail that nobody wrote.
    pub fn finish(self) -> Result<(), Malformed> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(Malformed("bytes after the end"))
        }
    }

    pub fn take(&mut self, length: usize) -> Result<Bytes, Malformed> {
        if length > self.rest.len() {
            return Err(Malformed("truncated"));
        }
        Ok(self.rest.split_to(length))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let bytes = self.take(N)?;
        Ok(<[u8; N]>::try_from(&bytes[..]).expect("take gave N bytes"))
    }

    pub fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(self.array::<1>()?[0])
    }

    pub fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    pub fn u64(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    pub fn varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(Malformed("number over 64 bits"));
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                // One number has one form, so that equal content has equal bytes.
                return if byte == 0 && shift > 0 {
                    Err(Malformed("number not in its shortest form"))
                } else {
                    Ok(value)
                };
            }
        }
        Err(Malformed("number over 64 bits"))
    }

    pub fn signed(&mut self) -> Result<i64, Malformed> {
        let raw = self.varint()?;
        Ok((raw >> 1) as i64 ^ -((raw & 1) as i64))
    }

    /// A count of things that take at least one byte each, so that a hostile count cannot ask for memory.
    pub fn count(&mut self) -> Result<usize, Malformed> {
        let count = self.varint()?;
        if count > self.rest.len() as u64 {
            return Err(Malformed("count beyond the end"));
        }
        Ok(count as usize)
    }

    pub fn bytes_field(&mut self) -> Result<Bytes, Malformed> {
        let length = self.count()?;
        self.take(length)
    }

    pub fn pair(&mut self) -> Result<Pair, Malformed> {
        Ok(Pair {
            epoch: Epoch(self.varint()?),
            version: Version(self.varint()?),
        })
    }

    pub fn request_id(&mut self) -> Result<RequestId, Malformed> {
        Ok(RequestId {
            client: ClientId(u128::from_be_bytes(self.array()?)),
            sequence: Sequence(self.varint()?),
        })
    }

    pub fn bool(&mut self) -> Result<bool, Malformed> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed("a flag is 0 or 1")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn numbers_survive(value: u64, signed: i64) {
            let mut buffer = BytesMut::new();
            buffer.put_varint(value);
            buffer.put_signed(signed);
            let mut reader = Reader::new(buffer.freeze());
            prop_assert_eq!(reader.varint(), Ok(value));
            prop_assert_eq!(reader.signed(), Ok(signed));
            prop_assert!(reader.finish().is_ok());
        }

        #[test]
        fn random_bytes_never_panic(bytes: Vec<u8>) {
            let mut reader = Reader::new(Bytes::from(bytes));
            while reader.bytes_field().is_ok() && !reader.is_empty() {}
        }
    }

    #[test]
    fn a_number_has_one_form_only() {
        assert!(
            Reader::new(Bytes::from_static(&[0x80, 0]))
                .varint()
                .is_err()
        );
        assert!(
            Reader::new(Bytes::from_static(&[0xff; 10]))
                .varint()
                .is_err()
        );
        assert_eq!(Reader::new(Bytes::from_static(&[0])).varint(), Ok(0));
    }
}

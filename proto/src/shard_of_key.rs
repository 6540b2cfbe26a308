//! Which shard of its namespace a key belongs to: the same arithmetic at clients and nodes.

/// The part of a key that decides its shard: what stands between the first `{` and the next `}` when not empty, as in
/// Redis Cluster; else the whole key.
pub fn tag(key: &[u8]) -> &[u8] {
    if let Some(open) = key.iter().position(|b| *b == b'{') {
        let rest = &key[open + 1..];
        match rest.iter().position(|b| *b == b'}') {
            Some(length) if length > 0 => return &rest[..length],
            _ => {}
        }
    }
    key
}

/// `crc32c(tag or whole key) mod shards`; `shards` is the fixed number of shards of the namespace, at least 1.
pub fn shard_index(key: &[u8], shards: u32) -> u32 {
    assert!(shards > 0, "a namespace has at least one shard");
    crc32c::crc32c(tag(key)) % shards
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tag_is_what_stands_between_the_first_braces() {
        assert_eq!(tag(b"user{7}:name"), b"7");
        assert_eq!(tag(b"user{}:name"), b"user{}:name");
        assert_eq!(tag(b"{a}{b}"), b"a");
        assert_eq!(tag(b"a}b{c"), b"a}b{c");
        assert_eq!(shard_index(b"x{t}1", 16), shard_index(b"y{t}2", 16));
    }

    #[test]
    fn the_shard_is_crc32c_modulo_shards() {
        // crc32c("123456789") = 0xe3069283 (RFC 3720, appendix B.4 family of vectors)
        assert_eq!(shard_index(b"123456789", u32::MAX), 0xe306_9283);
    }
}

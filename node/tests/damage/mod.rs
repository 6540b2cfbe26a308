//! Alters a closed store behind everybody's back, as a failing disk does.

use std::path::Path;
use understudy_node::storage::keys::Family;

/// Opens a closed store behind everybody's back.
pub fn raw(data: &Path, act: impl FnOnce(&rocksdb::DB)) {
    let names = Family::ALL.map(Family::name);
    let options = rocksdb::Options::default();
    act(&rocksdb::DB::open_cf(&options, data.join("store"), names).unwrap());
}

pub fn overwrite(data: &Path, family: Family, key: &[u8], value: &[u8]) {
    raw(data, |db| {
        db.put_cf(db.cf_handle(family.name()).unwrap(), key, value)
            .unwrap();
    });
}

/// The first key of the family that satisfies it.
pub fn find(data: &Path, family: Family, is: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    let mut found = None;
    raw(data, |db| {
        let family = db.cf_handle(family.name()).unwrap();
        let all = db.iterator_cf(family, rocksdb::IteratorMode::End);
        found = all.map(|item| item.unwrap().0.to_vec()).find(|key| is(key));
    });
    found.expect("it was written")
}

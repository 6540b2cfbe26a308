//! The store under test: what RocksDB and its in-memory twin owe alike, and what only a disk can do.

mod contract;
mod crash;
mod damage;
mod full_disk;
mod volume;
mod world;
mod writer;

//! What is forwarded of each record, by the namespace's setting: at the primary the choice, at a copy what becomes of it.
//!
//! The log is the same on every copy, whatever is sent. An operation is run again on the copy's own newest state, and the record
//! that this gives is taken only when its running checksum is the primary's. A whole object takes the place of one that the
//! record leads to another state here.

use super::replica::{Replica, Role};
use super::side::Side;
use crate::evaluate::{Written, perform};
use crate::forwarded::{EncodedOperation, Forwarded, Objects, Operation, size_of};
use crate::mutant::Mutant;
use crate::object::{LastWrite, Object};
use crate::record::{Body, EncodedRecord, Record};
use crate::store::{StoreError, Stored};
use crate::tables::Forward;
use bytes::Bytes;
use std::collections::BTreeMap;
use understudy_proto::limits::RECORD_BYTES_MAX;
use understudy_proto::{Pair, ShardId};

/// A record that is kept in memory for sending.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    pub record: EncodedRecord,
    /// What it left, where whole objects are forwarded.
    objects: Objects,
}

impl Kept {
    pub fn new(record: EncodedRecord) -> Kept {
        Kept {
            record,
            objects: Objects::new(),
        }
    }

    /// No form of it that is sent takes more.
    pub fn size(&self) -> u64 {
        (self.record.bytes.len() + size_of(&self.objects)) as u64
    }
}

/// The forms of records for one round of feeding: copies that stand together get the same.
#[derive(Debug, Default)]
pub(super) struct Forms {
    short: BTreeMap<Pair, Option<EncodedOperation>>,
}

impl Forms {
    pub fn of(&mut self, kept: Kept, forward: Forward) -> Forwarded {
        let Kept { record, objects } = kept;
        match forward {
            Forward::Operation => {
                let short = self.short.entry(record.pair);
                let short = short.or_insert_with(|| EncodedOperation::of(&record));
                match short.clone() {
                    Some(operation) => Forwarded::Operation(operation),
                    None => Forwarded::Record(record),
                }
            }
            Forward::Object if !objects.is_empty() => Forwarded::WithObjects(record, objects),
            Forward::Object | Forward::Components => Forwarded::Record(record),
        }
    }
}

impl Replica {
    /// The record as it is kept for sending. Only a request that ran here bears its objects, and not where objects take records in
    /// later than they are sent.
    pub(super) fn keep(&self, record: &Record, encoded: &EncodedRecord, written: &Written) -> Kept {
        let mut kept = Kept::new(encoded.clone());
        let wanted = match &self.role {
            Role::Primary(primary) => primary.streams.forward == Forward::Object,
            _ => false,
        };
        let ran = matches!(&record.body, Body::Request(body) if body.earlier.is_empty());
        let fits = encoded.bytes.len() + size_of(written) <= RECORD_BYTES_MAX;
        if wanted && ran && fits && self.live.applied.is_none() {
            kept.objects.clone_from(written);
        }
        kept
    }
}

/// A record that arrived, on its way into a copy's log.
pub(super) struct Arrived {
    pub encoded: EncodedRecord,
    pub record: Record,
    /// What it left at the primary, where that was sent.
    pub objects: BTreeMap<Bytes, Option<Object>>,
    /// Objects as it found them here, where they were looked up already.
    pub found: BTreeMap<Bytes, Option<Object>>,
}

impl Arrived {
    /// A record that was sent as it is logged.
    pub fn read(encoded: EncodedRecord) -> Result<Arrived, StoreError> {
        let (record, _) = Record::decode(&encoded.bytes).map_err(|malformed| {
            StoreError::Corrupt(format!("a record that was sent: {malformed}"))
        })?;
        Ok(Arrived {
            encoded,
            record,
            objects: BTreeMap::new(),
            found: BTreeMap::new(),
        })
    }

    /// With what it left at the primary. `None`: these are not the objects that it wrote.
    pub fn with_objects(mut self, objects: Objects) -> Option<Arrived> {
        let record = &self.record;
        let request = record.request_id()?;
        let last = LastWrite {
            pair: record.pair,
            request,
        };
        let mut writes = record.changes().iter().filter(|change| change.is_write());
        let of_write = |(key, object): &(Bytes, Option<Object>)| {
            let same = writes.next().is_some_and(|change| change.key == *key);
            same && object.as_ref().is_none_or(|object| object.last == last)
        };
        let all = objects.iter().all(of_write) && writes.next().is_none();
        self.objects = objects.into_iter().collect();
        all.then_some(self)
    }
}

impl Side {
    /// Runs an operation on what stands here after all records before it, committed or not. `None`: it does not come to the record
    /// that the primary formed, or cannot be read or run.
    pub fn run(
        &mut self,
        shard: ShardId,
        stored: &dyn Stored,
        operation: &EncodedOperation,
        epoch_start: Pair,
    ) -> Result<Option<Arrived>, StoreError> {
        let Some(operation) = operation.decode().ok().filter(Operation::is_within_limits) else {
            return Ok(None);
        };
        let in_sync = self.applied.is_some();
        if in_sync && !self.pending.looks_ahead() {
            match self.look_ahead(shard, stored) {
                Err(StoreError::Corrupt(_)) => return Ok(None),
                looked => looked?,
            }
        }
        let mut found = BTreeMap::new();
        let performed: Result<_, StoreError> = perform(&operation.request, operation.pair, |key| {
            let state = match Mutant::OperationOnWhatIsDurable.on() {
                true => self.durable(shard, stored, key),
                false => self.newest(shard, stored, key),
            }?;
            found.insert(key.clone(), state.clone());
            Ok(state)
        });
        let (body, _) = match performed {
            Err(StoreError::Corrupt(_)) => return Ok(None),
            performed => performed?,
        };
        let record = Record {
            shard,
            pair: operation.pair,
            previous: self.position,
            previous_epoch_start: epoch_start,
            previous_checksum: self.checksum,
            time_ms: operation.time_ms,
            body: Body::Request(Box::new(body)),
        };
        let encoded = record.encode();
        let same = encoded.checksum == operation.checksum;
        Ok(
            (same || Mutant::OperationUnchecked.on()).then_some(Arrived {
                encoded,
                record,
                objects: BTreeMap::new(),
                found,
            }),
        )
    }

    /// in_sync: a record behind the commit point. Where the states that these lead to are kept, it is looked at, too.
    pub fn push_pending(
        &mut self,
        shard: ShardId,
        stored: &dyn Stored,
        record: Record,
    ) -> Result<(), StoreError> {
        if self.pending.looks_ahead() && !self.look_further(shard, stored, &record)? {
            // The commit finds out what is wrong with the object.
            self.pending.forget_ahead();
        }
        self.pending.push(record);
        Ok(())
    }

    /// False: an object is not as the record found it.
    pub fn look_further(
        &mut self,
        shard: ShardId,
        stored: &dyn Stored,
        record: &Record,
    ) -> Result<bool, StoreError> {
        let Some(request) = record.request_id() else {
            return Ok(true);
        };
        for change in record.changes().iter().filter(|change| change.is_write()) {
            let before = self.newest(shard, stored, &change.key)?;
            let Ok(after) = change.apply(before, record.pair, request) else {
                return Ok(false);
            };
            self.pending
                .put_ahead(change.key.clone(), record.pair, after);
        }
        Ok(true)
    }
}

/// What a record leaves of an object at a copy: what it comes to here, or, where that is another, what it left at the primary.
/// `None`: it can be done nothing with.
pub(super) fn settled(
    here: Option<Option<Object>>,
    theirs: Option<Option<Object>>,
) -> Option<(Option<Object>, bool)> {
    match theirs {
        Some(theirs) if here.as_ref() != Some(&theirs) && !Mutant::ObjectNotTaken.on() => {
            Some((theirs, true))
        }
        _ => here.map(|here| (here, false)),
    }
}

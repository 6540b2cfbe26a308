//! The naming table: namespaces with their policy and shards, and each shard's row.
//!
//! A namespace's shards have consecutive ids, given once and never again, also not to a namespace made anew.

use super::command::{Refusal, check_name, invalid};
use super::entry::ShardEntry;
use crate::effect::Keep;
use crate::time::Duration;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use understudy_proto::ids::{CopyId, NamespaceId, Revision, ShardId};
use understudy_proto::limits;

/// When a write is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Policy {
    /// Durable on the primary; the copies follow at once.
    #[default]
    Lazy,
    /// Durable on every member of the in-sync set.
    InSync,
}

/// What is sent to the copies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Forward {
    Object,
    #[default]
    Components,
    Operation,
}

/// What becomes of an orphan that is not known already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ConflictPolicy {
    /// It is applied where everything is as it found it, else a person decides.
    #[default]
    ReapplyIfUnchanged,
    /// What stands is kept; a record tells what was discarded.
    Discard,
    /// A person decides, also where it could be applied.
    HoldForAPerson,
}

/// What a person chooses for a namespace and may change later.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NamespaceSettings {
    /// Copies of each shard, the primary included.
    pub copies: u32,
    /// Fixed at creation.
    pub policy: Policy,
    /// Of the policy in_sync: with fewer members in the set nothing commits. At most `copies`.
    pub min_in_sync: u32,
    /// Where copies may be, the preferred first; empty: everywhere.
    pub sites: Vec<String>,
    pub forward: Forward,
    pub conflicts: ConflictPolicy,
    pub dedup_entries_per_client: u32,
    pub dedup_age_ms: u64,
}

impl Default for NamespaceSettings {
    fn default() -> NamespaceSettings {
        NamespaceSettings {
            copies: 3,
            policy: Policy::Lazy,
            min_in_sync: 2,
            sites: Vec::new(),
            forward: Forward::default(),
            conflicts: ConflictPolicy::default(),
            dedup_entries_per_client: limits::DEDUP_ENTRIES_PER_CLIENT as u32,
            dedup_age_ms: limits::DEDUP_AGE_MS,
        }
    }
}

impl NamespaceSettings {
    pub(super) fn check(&self) -> Result<(), Refusal> {
        if self.copies == 0 || self.copies > limits::COPIES_MAX {
            return Err(invalid("copies", "has to be 1 to 7"));
        }
        if self.min_in_sync == 0 || self.min_in_sync > limits::COPIES_MAX {
            return Err(invalid("min_in_sync", "has to be 1 to 7"));
        }
        if self.policy == Policy::InSync && self.min_in_sync > self.copies {
            return Err(invalid("min_in_sync", "has to be at most copies"));
        }
        if self.sites.len() > 64 {
            return Err(invalid("sites", "has more than 64"));
        }
        for site in &self.sites {
            check_name("sites", site)?;
        }
        if self.dedup_entries_per_client == 0 {
            return Err(invalid("dedup_entries_per_client", "has to be at least 1"));
        }
        Ok(())
    }

    /// Which outcomes are kept of a client.
    pub fn keep(&self) -> Keep {
        Keep {
            entries: self.dedup_entries_per_client,
            age: Duration(self.dedup_age_ms.saturating_mul(1_000)),
        }
    }

    /// What the rows of its shards bear.
    pub(super) fn row_min_in_sync(&self) -> Option<u32> {
        (self.policy == Policy::InSync).then_some(self.min_in_sync)
    }

    /// The place of a site in the order of preference; sites that are not named come last.
    pub fn site_rank(&self, site: &str) -> usize {
        let named = self.sites.iter().position(|s| s == site);
        named.unwrap_or(self.sites.len())
    }

    pub fn allows_site(&self, site: &str) -> bool {
        self.sites.is_empty() || self.sites.iter().any(|s| s == site)
    }
}

/// One application's objects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespace {
    pub id: NamespaceId,
    pub revision: Revision,
    pub name: String,
    pub first_shard: ShardId,
    /// Fixed at creation.
    pub shards: u32,
    pub settings: NamespaceSettings,
}

impl Namespace {
    /// The id of the namespace's shard with that number, from 0.
    pub fn shard(&self, number: u32) -> Option<ShardId> {
        (number < self.shards).then(|| ShardId(self.first_shard.0 + u64::from(number)))
    }

    /// The ids of all its shards, in order.
    pub fn shard_ids(&self) -> impl Iterator<Item = ShardId> + use<> {
        let first = self.first_shard.0;
        (first..first + u64::from(self.shards)).map(ShardId)
    }
}

/// Namespaces and shards.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Naming {
    pub(super) revision: Revision,
    pub(super) last_namespace: NamespaceId,
    pub(super) last_shard: ShardId,
    pub(super) namespaces: BTreeMap<NamespaceId, Namespace>,
    pub(super) names: BTreeMap<String, NamespaceId>,
    pub(super) shards: BTreeMap<ShardId, ShardEntry>,
    /// Stores that a person declared lost: no open cut waits for them.
    pub(super) lost: BTreeSet<CopyId>,
}

impl Naming {
    pub(super) fn by_name(&self, name: &str) -> Option<&Namespace> {
        self.namespaces.get(self.names.get(name)?)
    }

    /// Makes the namespace and the empty rows of its shards.
    pub(super) fn create(
        &mut self,
        name: &str,
        shards: u32,
        settings: &NamespaceSettings,
        revision: Revision,
    ) -> Result<Namespace, Refusal> {
        check_name("name", name)?;
        settings.check()?;
        if shards == 0 || shards > limits::SHARDS_PER_NAMESPACE_MAX {
            return Err(invalid("shards", "has to be 1 to 4096"));
        }
        if self.names.contains_key(name) {
            return Err(Refusal::AlreadyExists {
                what: format!("namespace {name}"),
            });
        }
        if self.namespaces.len() >= limits::NAMESPACES_MAX {
            return Err(Refusal::TooMany {
                field: "namespaces".to_string(),
                limit: limits::NAMESPACES_MAX as u64,
            });
        }
        self.last_namespace = self.last_namespace.next();
        let namespace = Namespace {
            id: self.last_namespace,
            revision,
            name: name.to_string(),
            first_shard: self.last_shard.next(),
            shards,
            settings: settings.clone(),
        };
        self.last_shard = ShardId(self.last_shard.0 + u64::from(shards));
        for shard in namespace.shard_ids() {
            let mut entry = ShardEntry::new(namespace.id, settings.row_min_in_sync());
            entry.revision = revision;
            let reused = self.shards.insert(shard, entry);
            assert!(reused.is_none(), "shard {shard} exists already");
        }
        self.names.insert(name.to_string(), namespace.id);
        self.namespaces.insert(namespace.id, namespace.clone());
        Ok(namespace)
    }
}

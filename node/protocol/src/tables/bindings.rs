//! User bindings: hierarchical names for applications that look services up, each with endpoints and maybe a lease.
//!
//! A lease is counted on the table's clock; a binding goes when the clock passes its end. A step of the clock by a new
//! leader gives every binding its whole lease anew, because nobody could renew while no leader was there.

use super::command::{Refusal, check_name, invalid};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use understudy_proto::ids::Revision;
use understudy_proto::limits;

/// What a name stands for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    pub revision: Revision,
    pub endpoints: Vec<String>,
    /// `None`: stays until it is unbound.
    pub lease_ms: Option<u64>,
    /// On the table's clock. Present exactly with `lease_ms`.
    pub expires_ms: Option<u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Bindings {
    pub(super) revision: Revision,
    pub(super) rows: BTreeMap<String, Binding>,
}

impl Bindings {
    /// Binds, or binds anew, which renews the lease. The second value says whether what watchers see has changed.
    pub(super) fn bind(
        &mut self,
        name: &str,
        endpoints: &[String],
        lease_ms: Option<u64>,
        clock_ms: u64,
    ) -> Result<(Binding, bool), Refusal> {
        check_path(name)?;
        if endpoints.is_empty() || endpoints.len() > limits::ENDPOINTS_PER_BINDING_MAX {
            return Err(invalid("endpoints", "has to be 1 to 64"));
        }
        if endpoints.iter().any(|e| e.is_empty() || e.len() > 1_024) {
            return Err(invalid("endpoints", "has to have 1 to 1,024 bytes each"));
        }
        if lease_ms == Some(0) {
            return Err(invalid("lease_ms", "has to be above zero, or missing"));
        }
        let old = self.rows.get(name);
        if old.is_none() && self.rows.len() >= limits::BINDINGS_MAX {
            return Err(Refusal::TooMany {
                field: "bindings".to_string(),
                limit: limits::BINDINGS_MAX as u64,
            });
        }
        let same = |o: &Binding| o.endpoints == endpoints && o.lease_ms == lease_ms;
        let visible = !old.is_some_and(same);
        let binding = Binding {
            revision: old.map_or(Revision::ZERO, |o| o.revision),
            endpoints: endpoints.to_vec(),
            lease_ms,
            expires_ms: lease_ms.map(|l| clock_ms.saturating_add(l)),
        };
        self.rows.insert(name.to_string(), binding.clone());
        Ok((binding, visible))
    }

    /// Takes out what has expired and gives the names.
    pub(super) fn expire(&mut self, clock_ms: u64) -> Vec<String> {
        let over = |b: &Binding| b.expires_ms.is_some_and(|e| e <= clock_ms);
        let names = self.rows.iter().filter(|(_, b)| over(b));
        let names: Vec<String> = names.map(|(n, _)| n.clone()).collect();
        for name in &names {
            self.rows.remove(name);
        }
        names
    }

    pub(super) fn renew_all(&mut self, clock_ms: u64) {
        for binding in self.rows.values_mut() {
            let whole = binding.lease_ms.map(|l| clock_ms.saturating_add(l));
            binding.expires_ms = binding.expires_ms.max(whole);
        }
    }

    /// Those at `prefix` and below it: `a/b` has `a/b` and `a/b/c`, not `a/bc`. The empty prefix has all.
    pub(super) fn list<'a>(
        &'a self,
        prefix: &'a str,
    ) -> impl Iterator<Item = (&'a str, &'a Binding)> + 'a {
        let below = move |name: &str| {
            prefix.is_empty()
                || name
                    .strip_prefix(prefix)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        self.rows
            .range(prefix.to_string()..)
            .take_while(move |(name, _)| name.starts_with(prefix))
            .filter(move |(name, _)| below(name))
            .map(|(name, binding)| (name.as_str(), binding))
    }
}

fn check_path(name: &str) -> Result<(), Refusal> {
    check_name("name", name)?;
    if name.split('/').any(str::is_empty) {
        return Err(invalid("name", "has an empty part: names are like a/b/c"));
    }
    Ok(())
}

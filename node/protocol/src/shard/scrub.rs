//! Comparing the objects of all copies, a page of keys at a time: the scrub.
//!
//! The primary reads a page from its disk and asks each complete copy for the same keys. Writers are not held up, so two
//! copies are never read at the same version; what each answer may and must hold follows from the positions between which it
//! was read. The primary's page holds all objects as they were at some version from `from` to `at`. A copy answers only once
//! its disk is at `at` at least. So whatever it has from before `from` the primary has too, or something newer; and whatever
//! the primary has the copy has, or something newer, or it was deleted since, which a second look at the primary tells.
//!
//! Whoever has what fewer copies have is wrong, and of two alone the other one than the primary. A copy that is wrong is rebuilt
//! by a full copy, one at a time, once no vote that is missing could make it right. A primary that is outvoted asks to hand
//! over to a copy that is right, and its successor finds it.

use super::commit::SILENT_INTERVALS;
use super::message::{Message, Scrub, ScrubEntry, Scrubbed};
use super::replica::{Replica, Role, storage_failure};
use super::secondary::Phase;
use crate::effect::{Ask, Caller, Context, Effect};
use crate::mutant::Mutant;
use crate::object::Object;
use crate::store::StoreError;
use crate::time::Instant;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use understudy_proto::failure::{Applied, Failure, Reason};
use understudy_proto::limits::{SCRUB_KEYS_TOLD_MAX, SCRUB_PAGE_BYTES, SCRUB_PAGES_MAX};
use understudy_proto::{CopyId, Pair};

/// What comparing a page came to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ScrubbedPage {
    /// The last key of the page: where the next one begins. `None`: it was the last page.
    pub next: Option<Bytes>,
    /// Objects of the primary in it, and their bytes.
    pub objects: u64,
    pub bytes: u64,
    /// All copies of the row but the primary's.
    pub copies: BTreeMap<CopyId, ScrubbedCopy>,
    /// Keys of which more copies have the same than have what the primary has, it included.
    pub primary_differs: Vec<Bytes>,
}

/// How a copy compares.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ScrubbedCopy {
    Same,
    /// Objects that differ, and the first of their keys.
    Differs {
        objects: u64,
        keys: Vec<Bytes>,
    },
    /// It is not complete, or did not answer in time.
    NotCompared,
}

/// The pages that a primary compares at the moment.
#[derive(Debug, Default)]
pub(super) struct Scrubs {
    last: u64,
    pages: BTreeMap<u64, Page>,
    /// Copies that are wrong and are to be rebuilt.
    differing: BTreeSet<CopyId>,
    /// The one of them whose turn it is, until it is whole again.
    mending: Option<CopyId>,
    /// Copies that are right where this one is wrong.
    right: BTreeSet<CopyId>,
    /// How often it was asked to hand over to one of them.
    hand_overs: usize,
}

/// A page that is to be compared; as in [`crate::effect::Input::Scrub`].
#[derive(Debug)]
pub(super) struct Wanted {
    pub caller: Caller,
    pub after: Option<Bytes>,
    pub bytes_max: usize,
    pub deadline: Instant,
}

#[derive(Debug)]
struct Page {
    caller: Caller,
    deadline: Instant,
    from: Pair,
    next: Option<Bytes>,
    entries: Vec<ScrubEntry>,
    bytes: u64,
    asked: BTreeMap<CopyId, Asked>,
}

#[derive(Debug)]
enum Asked {
    /// Of it nothing can be asked.
    Not,
    /// On this stream.
    Waiting(u64),
    /// On that stream: the keys where it differs, each with what it has.
    Told(u64, Differences),
}

type Differences = BTreeMap<Bytes, Option<ScrubEntry>>;

/// What follows from a page.
#[derive(Debug, Default)]
struct Verdict {
    outvoted: BTreeSet<Bytes>,
    /// Copies that have what outvoted the primary.
    right: BTreeSet<CopyId>,
    wrong: BTreeSet<CopyId>,
}

/// With the size of the object.
fn entry(key: &Bytes, object: &Object) -> (ScrubEntry, usize) {
    let stored = object.encode();
    let entry = ScrubEntry {
        key: key.clone(),
        pair: object.last.pair,
        digest: xxhash_rust::xxh3::xxh3_64(&stored),
    };
    (entry, key.len() + stored.len())
}

/// One number for a page that is the same.
fn digest(entries: &[ScrubEntry]) -> u64 {
    let mut hash = xxhash_rust::xxh3::Xxh3::new();
    for entry in entries {
        hash.update(&(entry.key.len() as u64).to_be_bytes());
        hash.update(&entry.key);
        hash.update(&entry.pair.epoch.0.to_be_bytes());
        hash.update(&entry.pair.version.0.to_be_bytes());
        hash.update(&entry.digest.to_be_bytes());
    }
    hash.digest()
}

impl Page {
    fn is_answered(&self) -> bool {
        let waits = |asked: &Asked| matches!(asked, Asked::Waiting(_));
        !self.asked.values().any(waits)
    }

    fn entry(&self, key: &[u8]) -> Option<&ScrubEntry> {
        let at = self.entries.binary_search_by(|e| e.key[..].cmp(key)).ok()?;
        Some(&self.entries[at])
    }

    /// Counts, for each key where a copy differs, who has the same.
    fn verdict(&self) -> Verdict {
        let mut votes: BTreeMap<&Bytes, BTreeMap<&Option<ScrubEntry>, BTreeSet<CopyId>>> =
            BTreeMap::new();
        let (mut told, mut missing) = (0, 0);
        for (copy, asked) in &self.asked {
            let Asked::Told(_, differs) = asked else {
                missing += 1;
                continue;
            };
            told += 1;
            for (key, theirs) in differs {
                let voters = votes.entry(key).or_default().entry(theirs).or_default();
                voters.insert(*copy);
            }
        }
        let mut verdict = Verdict::default();
        for (key, others) in votes {
            let against: usize = others.values().map(BTreeSet::len).sum();
            let with_the_primary = 1 + told - against;
            let most = others.values().map(BTreeSet::len).max().unwrap_or(0);
            if most > with_the_primary {
                verdict.outvoted.insert(key.clone());
                let right = others.into_values().filter(|voters| voters.len() == most);
                verdict.right.extend(right.flatten());
                continue;
            }
            // Those that have the same, with all who were not heard, would still be no more than those with the primary.
            let lost = |voters: &BTreeSet<CopyId>| voters.len() + missing <= with_the_primary;
            verdict
                .wrong
                .extend(others.into_values().filter(lost).flatten());
        }
        verdict
    }

    fn result(self, outvoted: BTreeSet<Bytes>) -> ScrubbedPage {
        let found = |asked: Asked| match asked {
            Asked::Not | Asked::Waiting(_) => ScrubbedCopy::NotCompared,
            Asked::Told(_, differs) if differs.is_empty() => ScrubbedCopy::Same,
            Asked::Told(_, differs) => ScrubbedCopy::Differs {
                objects: differs.len() as u64,
                keys: differs.into_keys().take(SCRUB_KEYS_TOLD_MAX).collect(),
            },
        };
        ScrubbedPage {
            next: self.next,
            objects: self.entries.len() as u64,
            bytes: self.bytes,
            copies: self.asked.into_iter().map(|(c, a)| (c, found(a))).collect(),
            primary_differs: outvoted.into_iter().take(SCRUB_KEYS_TOLD_MAX).collect(),
        }
    }
}

impl Scrubs {
    /// Nobody compares any more.
    pub fn dismiss(self, failure: &Failure, out: &mut Vec<Effect>) {
        out.extend(self.pages.into_values().map(|page| Effect::Scrubbed {
            caller: page.caller,
            answer: Err(failure.clone()),
        }));
    }
}

impl Replica {
    /// Compares the objects after a key with those of all copies.
    pub(super) fn on_scrub(
        &mut self,
        context: &Context<'_>,
        wanted: Wanted,
        out: &mut Vec<Effect>,
    ) -> Result<(), StoreError> {
        let Wanted {
            caller,
            after,
            bytes_max,
            deadline,
        } = wanted;
        let refused = match &self.role {
            Role::Primary(primary) if primary.scrubs.pages.len() >= SCRUB_PAGES_MAX => {
                let why = "pages of this shard are compared at the moment; ask again";
                Err(Failure::no(Reason::Overloaded, why))
            }
            _ => self.check_primary(context),
        };
        if let Err(failure) = refused {
            let answer = Err(failure);
            out.push(Effect::Scrubbed { caller, answer });
            return Ok(());
        }
        let from = self.visible;
        let at = self.live.applied.unwrap_or(self.live.position);
        let (shard, generation) = (self.shard, self.live.generation);
        let stored = context.stored;
        let bytes_max = bytes_max.min(SCRUB_PAGE_BYTES);
        let read = stored.objects_after(shard, generation, after.as_deref(), bytes_max);
        let page = read.inspect_err(|error| {
            let answer = Err(storage_failure(error, Applied::No));
            out.push(Effect::Scrubbed { caller, answer });
        })?;
        let listed = page.items.iter().map(|(key, object)| entry(key, object));
        let (entries, sizes): (Vec<ScrubEntry>, Vec<usize>) = listed.unzip();
        let bytes = sizes.into_iter().sum::<usize>() as u64;
        let last = page.items.last().map(|(key, _)| key.clone());
        let next = last.filter(|_| !page.done);
        let digest = digest(&entries);
        let row = self.row();
        let (secondaries, joining) = (row.secondaries.clone(), row.joining.clone());
        let silent_after = self.settings.interval.scale(SILENT_INTERVALS, 1);
        let primary = self.primary_mut();
        primary.scrubs.last += 1;
        let number = primary.scrubs.last;
        let mut asked: BTreeMap<CopyId, Asked> =
            joining.into_iter().map(|c| (c, Asked::Not)).collect();
        for copy in secondaries {
            let follows = primary.streams.acknowledged(copy).is_some()
                && primary
                    .members
                    .heard_within(copy, context.now, silent_after);
            if !follows || primary.scrubs.differing.contains(&copy) {
                asked.insert(copy, Asked::Not);
                continue;
            }
            let stream = primary.streams.stream_of(copy);
            asked.insert(copy, Asked::Waiting(stream));
            let scrub = Scrub {
                epoch: primary.epoch,
                stream,
                number,
                after: after.clone(),
                last: next.clone(),
                at,
                digest,
            };
            let message = Message::Scrub(scrub);
            out.push(Effect::Send {
                to: copy.node,
                message,
            });
        }
        let page = Page {
            caller,
            deadline,
            from,
            next,
            entries,
            bytes,
            asked,
        };
        primary.scrubs.pages.insert(number, page);
        self.finish_scrubs(context, out);
        Ok(())
    }

    /// At a copy: its disk is compared once it is far enough.
    pub(super) fn on_scrub_asked(
        &mut self,
        context: &Context<'_>,
        scrub: Scrub,
        out: &mut Vec<Effect>,
    ) -> Result<(), StoreError> {
        let secondary = self.secondary_mut();
        if secondary.scrubs.len() < SCRUB_PAGES_MAX {
            secondary.scrubs.push(scrub);
        }
        self.answer_scrubs(context, out)
    }

    /// At a copy: whatever is far enough by now.
    pub(super) fn answer_scrubs(
        &mut self,
        context: &Context<'_>,
        out: &mut Vec<Effect>,
    ) -> Result<(), StoreError> {
        let visible = self.visible;
        let whole = self.staged.is_none() && !self.reads.is_switching(self.persisted);
        let Role::Secondary(secondary) = &mut self.role else {
            return Ok(());
        };
        if secondary.scrubs.is_empty() {
            return Ok(());
        }
        let (stream, to) = (secondary.stream, secondary.primary);
        secondary.scrubs.retain(|scrub| scrub.stream == stream);
        if secondary.phase != Phase::Streaming || !whole {
            return Ok(());
        }
        let early = Mutant::ScrubComparesEarly.on();
        let due = secondary
            .scrubs
            .extract_if(.., |scrub| scrub.at <= visible || early);
        for scrub in due.collect::<Vec<_>>() {
            let message = Message::Scrubbed(self.compared(context, scrub)?);
            out.push(Effect::Send { to, message });
        }
        Ok(())
    }

    fn compared(&self, context: &Context<'_>, scrub: Scrub) -> Result<Scrubbed, StoreError> {
        let (shard, generation) = (self.shard, self.live.generation);
        let inside = |key: &Bytes| scrub.last.as_ref().is_none_or(|last| key <= last);
        let (mut entries, mut bytes): (Vec<ScrubEntry>, usize) = (Vec::new(), 0);
        let mut after = scrub.after.clone();
        // A copy that has more between the same keys is told of as far as a page and a half goes.
        let more = loop {
            let stored = context.stored;
            let page =
                stored.objects_after(shard, generation, after.as_deref(), SCRUB_PAGE_BYTES / 2)?;
            let end = page.done || page.items.last().is_none_or(|(key, _)| !inside(key));
            for (key, object) in page.items.iter().filter(|(key, _)| inside(key)) {
                let (entry, size) = entry(key, object);
                bytes += size;
                entries.push(entry);
            }
            after = entries.last().map(|entry| entry.key.clone());
            if end || bytes >= SCRUB_PAGE_BYTES * 3 / 2 {
                break !end;
            }
        };
        let same = !more && digest(&entries) == scrub.digest;
        Ok(Scrubbed {
            epoch: scrub.epoch,
            stream: scrub.stream,
            copy: self.copy(),
            number: scrub.number,
            at: self.live.applied.unwrap_or(self.live.position),
            same,
            more,
            entries: if same { Vec::new() } else { entries },
        })
    }

    /// At the primary: a copy told.
    pub(super) fn on_scrubbed(
        &mut self,
        context: &Context<'_>,
        scrubbed: Scrubbed,
        out: &mut Vec<Effect>,
    ) -> Result<(), StoreError> {
        let (epoch, copy) = (scrubbed.epoch, scrubbed.copy);
        let Role::Primary(primary) = &self.role else {
            return Ok(());
        };
        let Some(page) = primary.scrubs.pages.get(&scrubbed.number) else {
            return Ok(());
        };
        let asked = page.asked.get(&copy);
        let waits = matches!(asked, Some(Asked::Waiting(stream)) if *stream == scrubbed.stream);
        if primary.epoch != epoch || !waits {
            return Ok(());
        }
        let differs = match scrubbed.same {
            true => BTreeMap::new(),
            false => self.differences(context, page, &scrubbed)?,
        };
        let pages = &mut self.primary_mut().scrubs.pages;
        if let Some(page) = pages.get_mut(&scrubbed.number) {
            page.asked
                .insert(copy, Asked::Told(scrubbed.stream, differs));
        }
        self.finish_scrubs(context, out);
        Ok(())
    }

    /// The keys where the copy has what it cannot have beside this primary, each with what it has.
    fn differences(
        &self,
        context: &Context<'_>,
        page: &Page,
        scrubbed: &Scrubbed,
    ) -> Result<BTreeMap<Bytes, Option<ScrubEntry>>, StoreError> {
        let mut differs = BTreeMap::new();
        let newer_counts = Mutant::ScrubTakesNewerForOther.on();
        for theirs in &scrubbed.entries {
            let same = match page.entry(&theirs.key) {
                Some(mine) if mine.pair == theirs.pair => mine.digest == theirs.digest,
                // Written after the primary was read.
                _ => theirs.pair > page.from && !newer_counts,
            };
            if !same {
                differs.insert(theirs.key.clone(), Some(theirs.clone()));
            }
        }
        let told: BTreeSet<&Bytes> = scrubbed.entries.iter().map(|entry| &entry.key).collect();
        let upto = scrubbed.entries.last().map(|entry| &entry.key);
        for mine in &page.entries {
            let beyond = scrubbed.more && upto.is_none_or(|upto| mine.key > *upto);
            // What it deleted since is not here any more; as long as this disk may be behind it, nobody knows.
            if told.contains(&mine.key) || beyond || self.visible < scrubbed.at {
                continue;
            }
            let (shard, generation) = (self.shard, self.live.generation);
            let here = context.stored.object(shard, generation, &mine.key)?;
            let still = here.is_some_and(|object| object.last.pair == mine.pair);
            if still || newer_counts {
                differs.insert(mine.key.clone(), None);
            }
        }
        Ok(differs)
    }

    /// Tells what was compared, as far as all copies told or their time is over, and has what differs mended.
    pub(super) fn finish_scrubs(&mut self, context: &Context<'_>, out: &mut Vec<Effect>) {
        let Role::Primary(primary) = &mut self.role else {
            return;
        };
        if primary.scrubs.pages.is_empty() {
            return;
        }
        let over = |page: &Page| page.is_answered() || context.now >= page.deadline;
        let pages = std::mem::take(&mut primary.scrubs.pages);
        let (finished, waiting) = pages.into_iter().partition(|(_, page)| over(page));
        primary.scrubs.pages = waiting;
        let finished: BTreeMap<u64, Page> = finished;
        for page in finished.into_values() {
            let verdict = page.verdict();
            for copy in &verdict.wrong {
                // One that began anew since then has other contents now.
                let stream = primary.streams.stream_of(*copy);
                if matches!(page.asked.get(copy), Some(Asked::Told(asked, _)) if *asked == stream) {
                    primary.scrubs.differing.insert(*copy);
                }
            }
            primary.scrubs.right.extend(verdict.right);
            out.push(Effect::Scrubbed {
                caller: page.caller,
                answer: Ok(page.result(verdict.outvoted)),
            });
        }
    }

    /// Once an interval: a copy that is wrong is marked joining, and then fed no more until it begins anew; a primary that is
    /// wrong itself asks to hand over.
    pub(super) fn mend(&mut self, context: &Context<'_>, out: &mut Vec<Effect>) {
        let silent_after = self.settings.interval.scale(SILENT_INTERVALS, 1);
        let row = self.row();
        let (secondaries, joining) = (row.secondaries.clone(), row.joining.clone());
        let members = row.in_sync.as_ref().map(|set| set.members.clone());
        let primary = self.primary_mut();
        let (epoch, scrubs) = (primary.epoch, &mut primary.scrubs);
        let named = |copy: &CopyId| secondaries.contains(copy) || joining.contains(copy);
        scrubs.differing.retain(named);
        let is_mended = |copy: &CopyId| !scrubs.differing.contains(copy) && !joining.contains(copy);
        if scrubs.mending.is_none_or(|copy| is_mended(&copy)) {
            scrubs.mending = scrubs.differing.first().copied();
        }
        scrubs.right.retain(|copy| secondaries.contains(copy));
        // What is known to be wrong itself is no source.
        let waits = |copy: &CopyId| scrubs.differing.contains(copy) && scrubs.right.is_empty();
        if let Some(copy) = scrubs.mending.filter(waits) {
            match secondaries.contains(&copy) {
                true => out.push(Effect::Ask(Ask::TooFarBehind { epoch, copy })),
                false => primary.streams.forget(copy),
            }
        }
        let able = scrubs.right.iter().copied().filter(|copy| {
            let follows = primary.streams.acknowledged(*copy).is_some()
                && primary
                    .members
                    .heard_within(*copy, context.now, silent_after);
            follows
                && members
                    .as_ref()
                    .is_none_or(|members| members.contains(copy))
        });
        let able: Vec<CopyId> = able.collect();
        if !able.is_empty() {
            let to = able[scrubs.hand_overs % able.len()];
            scrubs.hand_overs += 1;
            out.push(Effect::Ask(Ask::HandOver { epoch, to }));
        }
    }

    /// Whether the copy that subscribes has to begin anew; it does, once.
    pub(super) fn is_to_begin_anew(&mut self, copy: CopyId, begins: bool) -> bool {
        let differing = &mut self.primary_mut().scrubs.differing;
        if begins {
            differing.remove(&copy);
        }
        differing.contains(&copy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use understudy_proto::{NodeId, StoreId};

    fn copy(n: u64) -> CopyId {
        CopyId {
            node: NodeId(n),
            store: StoreId(n.into()),
        }
    }

    /// What each copy has at one key: `s` the same as the primary, `-` it was not heard, else another value of that name.
    fn judged(told: &str) -> (bool, Vec<u64>, Vec<u64>) {
        let key = Bytes::from_static(b"k");
        let asked = told.chars().zip(1..).map(|(what, n)| {
            let other = ScrubEntry {
                key: key.clone(),
                pair: Pair::new(1, 1),
                digest: u64::from(what),
            };
            let asked = match what {
                's' => Asked::Told(1, BTreeMap::new()),
                '-' => Asked::Waiting(1),
                _ => Asked::Told(1, BTreeMap::from([(key.clone(), Some(other))])),
            };
            (copy(n), asked)
        });
        let page = Page {
            caller: Caller(1),
            deadline: Instant::ZERO,
            from: Pair::ZERO,
            next: None,
            entries: Vec::new(),
            bytes: 0,
            asked: asked.collect(),
        };
        let Verdict {
            outvoted,
            right,
            wrong,
        } = page.verdict();
        let nodes = |copies: BTreeSet<CopyId>| copies.iter().map(|copy| copy.node.0).collect();
        (!outvoted.is_empty(), nodes(right), nodes(wrong))
    }

    #[test]
    fn whoever_has_what_fewer_have_is_wrong() {
        assert_eq!(judged("ss"), (false, vec![], vec![]));
        assert_eq!(judged("xs"), (false, vec![], vec![1]));
        assert_eq!(judged("xx"), (true, vec![1, 2], vec![]));
        assert_eq!(judged("x"), (false, vec![], vec![1]), "the primary's holds");
        assert_eq!(judged("xy"), (false, vec![], vec![1, 2]));
        assert_eq!(judged("xxs"), (false, vec![], vec![1, 2]), "as many");
        assert_eq!(judged("xxss"), (false, vec![], vec![1, 2]));
        assert_eq!(judged("xxxs"), (true, vec![1, 2, 3], vec![]));
        assert_eq!(judged("xxxsy"), (true, vec![1, 2, 3], vec![]));
    }

    #[test]
    fn nobody_is_wrong_as_long_as_a_missing_vote_could_make_it_right() {
        assert_eq!(judged("x-"), (false, vec![], vec![]));
        assert_eq!(judged("x-s"), (false, vec![], vec![1]));
        assert_eq!(judged("xx-s"), (false, vec![], vec![]));
        assert_eq!(judged("xx-"), (true, vec![1, 2], vec![]));
    }
}

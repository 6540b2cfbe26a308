//! What a session saw of one shard: what its next session read asks a copy to have.
//!
//! One pair is not enough. After a failover a write is answered in the new epoch, with a higher pair, though an earlier
//! one of this session may have been cut off. So the highest pair of each epoch is kept until a session read that asked
//! for all of them is answered: then all lie on one branch, and the answer's own pair stands for them.

use std::collections::BTreeMap;
use understudy_proto::{Epoch, Pair, Version};

/// The pairs to ask for, one for each epoch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShardTokens(BTreeMap<Epoch, Version>);

impl ShardTokens {
    /// An answer other than that of a session read named this pair.
    pub fn raise(&mut self, pair: Pair) {
        if pair == Pair::ZERO {
            return;
        }
        let version = self.0.entry(pair.epoch).or_default();
        *version = pair.version.max(*version);
    }

    /// A session read that asked for these pairs was answered with this one.
    pub fn settle(&mut self, asked: &[Pair], answer: Pair) {
        for pair in asked {
            if self.0.get(&pair.epoch).is_some_and(|v| *v <= pair.version) {
                self.0.remove(&pair.epoch);
            }
        }
        self.raise(answer);
    }

    /// The newest; (0, 0): nothing was seen.
    pub fn newest(&self) -> Pair {
        self.0
            .last_key_value()
            .map_or(Pair::ZERO, |(epoch, version)| Pair {
                epoch: *epoch,
                version: *version,
            })
    }

    /// All, oldest first.
    pub fn pairs(&self) -> Vec<Pair> {
        self.0
            .iter()
            .map(|(epoch, version)| Pair {
                epoch: *epoch,
                version: *version,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_epoch_does_not_hide_what_was_seen_in_an_earlier_one() {
        let mut tokens = ShardTokens::default();
        tokens.raise(Pair::new(1, 4));
        tokens.raise(Pair::new(1, 9));
        tokens.raise(Pair::new(1, 7));
        tokens.raise(Pair::new(2, 8));
        assert_eq!(tokens.newest(), Pair::new(2, 8));
        assert_eq!(tokens.pairs(), [Pair::new(1, 9), Pair::new(2, 8)]);
        let asked = tokens.pairs();
        tokens.settle(&asked, Pair::new(2, 11));
        assert_eq!(tokens.pairs(), [Pair::new(2, 11)]);
    }

    #[test]
    fn what_came_after_the_question_is_asked_for_by_the_next_one() {
        let mut tokens = ShardTokens::default();
        tokens.raise(Pair::new(1, 4));
        let asked = tokens.pairs();
        tokens.raise(Pair::new(1, 6));
        tokens.settle(&asked, Pair::new(2, 8));
        assert_eq!(tokens.pairs(), [Pair::new(1, 6), Pair::new(2, 8)]);
    }

    #[test]
    fn nothing_seen_asks_for_nothing() {
        let mut tokens = ShardTokens::default();
        tokens.settle(&[], Pair::ZERO);
        assert_eq!(tokens.newest(), Pair::ZERO);
        assert_eq!(tokens.pairs(), []);
    }
}

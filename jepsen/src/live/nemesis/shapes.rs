//! Which links a partition cuts, from a number that was drawn and who serves at the time.

use super::{Cut, Harm};
use crate::dice::Dice;
use crate::live::network::{Link, Rule};
use std::time::Duration;

/// The links to cut, and a description. `groups`: the members by group; `primaries`: those that serve.
pub fn cut(
    cut: Cut,
    groups: &[Vec<usize>],
    primaries: &[usize],
    dice: &mut Dice,
) -> Result<(Vec<Link>, Vec<usize>), String> {
    let mut all: Vec<usize> = groups.concat();
    shuffle(&mut all, dice);
    let half = all.len() / 2;
    let (one, other) = all.split_at(half);
    Ok(match cut {
        Cut::One => alone(all[0], &all),
        Cut::Primary => {
            if primaries.is_empty() {
                return Err("nobody serves".to_string());
            }
            alone(*dice.pick(primaries), &all)
        }
        Cut::Halves => (both_ways(one, other), one.to_vec()),
        Cut::OneWay => (one_way(one, other), one.to_vec()),
        Cut::Groups => {
            let [first, rest @ ..] = groups else {
                return Err("there are no groups".to_string());
            };
            (both_ways(first, &rest.concat()), first.clone())
        }
        Cut::Bridge => {
            if all.len() < 3 {
                return Err("a bridge takes three".to_string());
            }
            let (one, rest) = all.split_at((all.len() - 1) / 2);
            let [bridge, other @ ..] = rest else {
                return Err("a bridge takes three".to_string());
            };
            (both_ways(one, other), vec![*bridge])
        }
        Cut::Ring => {
            let mut links = Vec::new();
            for group in groups {
                links.extend(ring(group, dice));
            }
            if links.is_empty() {
                return Err("a ring takes three of a group".to_string());
            }
            (links, Vec::new())
        }
    })
}

fn alone(one: usize, all: &[usize]) -> (Vec<Link>, Vec<usize>) {
    let others: Vec<usize> = all.iter().copied().filter(|other| *other != one).collect();
    (both_ways(&[one], &others), vec![one])
}

fn one_way(from: &[usize], to: &[usize]) -> Vec<Link> {
    let links = from
        .iter()
        .flat_map(|from| to.iter().map(|to| (*from, *to)));
    links.collect()
}

fn both_ways(one: &[usize], other: &[usize]) -> Vec<Link> {
    let mut links = one_way(one, other);
    links.extend(one_way(other, one));
    links
}

/// On a ring in a drawn order each sees its nearest neighbours, as many as make a majority with itself. Of three that would be
/// all, so there two do not see each other, and both see the third.
fn ring(group: &[usize], dice: &mut Dice) -> Vec<Link> {
    let mut order = group.to_vec();
    shuffle(&mut order, dice);
    let count = order.len();
    if count == 3 {
        return both_ways(&order[..1], &order[1..2]);
    }
    if count < 3 {
        return Vec::new();
    }
    let neighbours = count / 2;
    let mut links = Vec::new();
    for (at, from) in order.iter().enumerate() {
        for (there, to) in order.iter().enumerate() {
            let apart = at.abs_diff(there);
            let apart = apart.min(count - apart);
            if apart > neighbours.div_ceil(2) {
                links.push((*from, *to));
            }
        }
    }
    links
}

pub fn shuffle(list: &mut [usize], dice: &mut Dice) {
    for last in (1..list.len()).rev() {
        list.swap(last, dice.index(last + 1));
    }
}

/// How bad it is, and a description.
pub fn harm(harm: Harm, dice: &mut Dice) -> (Rule, String) {
    let mut rule = Rule::default();
    let what = match harm {
        Harm::Delay => {
            let ms = dice.between(20, 250);
            rule.delay = Duration::from_millis(ms);
            rule.jitter = Duration::from_millis(ms / 2);
            format!("{ms} to {} ms", ms + ms / 2)
        }
        Harm::Loss => {
            rule.loss_permille = dice.between(20, 150) as u32;
            format!("{} of 1,000 packets", rule.loss_permille)
        }
        Harm::Duplicate => {
            rule.duplicate_permille = dice.between(50, 300) as u32;
            format!("{} of 1,000 packets", rule.duplicate_permille)
        }
        Harm::Reorder => {
            rule.reorder_permille = dice.between(50, 300) as u32;
            format!("{} of 1,000 packets", rule.reorder_permille)
        }
        Harm::Rate => {
            rule.bytes_per_second = dice.between(20_000, 200_000);
            format!("{} bytes a second", rule.bytes_per_second)
        }
    };
    (rule, what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dice::Purpose;

    fn links(shape: Cut) -> Vec<Link> {
        let groups = [vec![0, 1, 2], vec![3, 4, 5, 6, 7]];
        let mut dice = Dice::new(9, Purpose::LiveFaults, 0);
        cut(shape, &groups, &[4], &mut dice).unwrap().0
    }

    #[test]
    fn partitions_cut_what_they_say() {
        assert_eq!(links(Cut::One).len(), 14);
        assert!(
            links(Cut::Primary)
                .iter()
                .all(|(from, to)| *from == 4 || *to == 4)
        );
        assert_eq!(links(Cut::Halves).len(), 32);
        assert_eq!(links(Cut::OneWay).len(), 16);
        assert_eq!(links(Cut::Groups).len(), 30);
        assert_eq!(links(Cut::Bridge).len(), 24);
        // Of five each sees two others.
        let ring = links(Cut::Ring);
        for node in 3..8 {
            assert_eq!(ring.iter().filter(|(from, _)| *from == node).count(), 2);
        }
        assert_eq!(ring.iter().filter(|(from, _)| *from < 3).count(), 2);
    }
}

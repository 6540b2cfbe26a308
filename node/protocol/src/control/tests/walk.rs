//! Random walks: crashes with and without exit reports, restarts, cuts, elections, lost and repeated messages; then
//! everything heals and has to be whole again within a bounded time.

use super::world::World;
use crate::control::Input;
use crate::control::message::{Ask, Condition};
use crate::tables::{Command, SettingsChange};
use crate::time::Duration;
use understudy_proto::ids::NodeId;

/// More with `WALKS=500`, one with `WALK=seed`.
const WALKS: u64 = 8;

fn walk(seed: u64) -> usize {
    let mut world = World::served(seed, 3, 4, 6);
    world.loss = world.rng.below(20);
    world.delay_ms = world.rng.below(120);
    for _ in 0..40 {
        disturb(&mut world);
        let ms = 50 + world.rng.below(900);
        world.run(ms);
    }
    heal(&mut world);
    world.run(45_000);
    assert_eq!(world.unfinished(), Vec::<String>::new(), "seed {seed}");
    world.promotions
}

fn disturb(world: &mut World) {
    let nodes: Vec<NodeId> = world.nodes.keys().copied().collect();
    let node = nodes[world.rng.below(nodes.len() as u64) as usize];
    let up = world.nodes[&node].up;
    match world.rng.below(15) {
        0 if up => world.crash(node),
        1 if up => world.crash_with_report(node),
        2 | 3 if !up => world.restart(node),
        4 => world.restart(node),
        5 => world.nodes.get_mut(&node).unwrap().cut = true,
        6 | 7 => world
            .nodes
            .values_mut()
            .for_each(|n| (n.cut, n.deaf) = (false, false)),
        12 => world.nodes.get_mut(&node).unwrap().deaf = true,
        13 => ask_for_new_epochs(world, node),
        14 => {
            ask_for_new_epochs(world, node);
            world.nodes.get_mut(&node).unwrap().deaf = true;
            world.run(200);
            world.lose_leader(150);
        }
        8 => {
            let election = 150 + world.rng.below(600);
            world.lose_leader(election);
        }
        9 => {
            let lease = [0, 900, 1_500, 3_000][world.rng.below(4) as usize];
            let lease = Some(Duration::from_millis(lease));
            let change = SettingsChange {
                lease,
                ..SettingsChange::default()
            };
            let _ = world.command(Command::SetSettings(change));
        }
        10 => {
            let control = &mut world.nodes.get_mut(&node).unwrap().control;
            control.set_condition(Condition::Stopping);
        }
        _ => transfer(world, node),
    }
}

/// As a primary does that met a higher promise.
fn ask_for_new_epochs(world: &mut World, node: NodeId) {
    let node = world.nodes.get_mut(&node).unwrap();
    for (shard, epoch) in node.acting.clone() {
        let at_least = epoch.next();
        node.control.ask(Ask::NewEpoch {
            shard,
            epoch,
            at_least,
        });
    }
}

fn transfer(world: &mut World, node: NodeId) {
    let Some(leader) = world.leader else { return };
    let copy = world.nodes[&node].process.copy();
    let shards = world.tables().shards().keys().copied().collect::<Vec<_>>();
    let shard = shards[world.rng.below(shards.len() as u64) as usize];
    world.input(
        leader,
        Input::TransferWanted {
            shard,
            target: copy,
        },
    );
}

fn heal(world: &mut World) {
    (world.loss, world.delay_ms) = (0, 10);
    let nodes: Vec<NodeId> = world.nodes.keys().copied().collect();
    for node in nodes {
        let n = world.nodes.get_mut(&node).unwrap();
        (n.cut, n.deaf) = (false, false);
        let control = &mut world.nodes.get_mut(&node).unwrap().control;
        control.set_condition(Condition::Serving);
        if !world.nodes[&node].up {
            world.restart(node);
        }
    }
}

#[test]
fn random_walks_keep_the_invariants_and_end_whole() {
    let number = |name: &str| std::env::var(name).ok().and_then(|s| s.parse::<u64>().ok());
    let walks = number("WALKS").unwrap_or(WALKS);
    let seeds = number("WALK").map_or(0..walks, |seed| seed..seed + 1);
    let promotions: usize = seeds.map(walk).sum();
    assert!(promotions > 0, "the walks promoted nobody");
}

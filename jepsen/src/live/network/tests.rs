//! What faults do to packets: as arithmetic, and between two real places.

use super::*;
use crate::dice::Purpose;
use crate::live::place::{Place, why_not_apart};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

#[test]
fn faults_add_up_and_tell_what_met_them() {
    let mut faults = Faults::default();
    let mut dice = Dice::new(1, Purpose::LivePackets, 0);
    let now = Instant::now();
    let mut add = |links: Vec<Link>, rule: Rule| {
        let free_at = vec![now; links.len()];
        faults.next_id += 1;
        faults.all.push(Fault {
            id: faults.next_id,
            links,
            rule,
            met: 0,
            free_at,
        });
    };
    add(
        vec![(0, 1)],
        Rule {
            delay: Duration::from_millis(5),
            duplicate_permille: 1_000,
            ..Rule::default()
        },
    );
    add(
        vec![(0, 1), (1, 0)],
        Rule {
            bytes_per_second: 1_000,
            ..Rule::default()
        },
    );
    add(
        vec![(2, 0)],
        Rule {
            cut: true,
            ..Rule::default()
        },
    );
    let fate = faults.fate_of((0, 1), 100, now, &mut dice);
    let expected = now + Duration::from_millis(105);
    assert_eq!(fate.as_slice(), [expected, expected]);
    let fate = faults.fate_of((1, 0), 100, now, &mut dice);
    assert_eq!(fate.as_slice(), [now + Duration::from_millis(100)]);
    assert!(faults.fate_of((2, 0), 100, now, &mut dice).is_empty());
    assert_eq!(
        faults.fate_of((0, 2), 100, now, &mut dice).as_slice(),
        [now]
    );
    // The queue of a slow link is bounded.
    let lost = (0..10).filter(|_| faults.fate_of((1, 0), 100, now, &mut dice).is_empty());
    assert_eq!(lost.count(), 6);
    let met: Vec<u64> = faults.all.iter().map(|fault| fault.met).collect();
    assert_eq!(met, [1, 12, 1]);
}

/// Two places and the network between them; `None` where nobody may make one.
fn two_places() -> Option<(Place, Place, Network)> {
    if let Some(why) = why_not_apart() {
        eprintln!("skipped: {why}");
        return None;
    }
    let (one, device_of_one) = Place::apart("one", ONE).unwrap();
    let (other, device_of_other) = Place::apart("other", OTHER).unwrap();
    let ends = vec![(ONE, device_of_one), (OTHER, device_of_other)];
    let network = Network::start(ends, Dice::new(1, Purpose::LivePackets, 0)).unwrap();
    Some((one, other, network))
}

const ONE: Ipv4Addr = Ipv4Addr::new(10, 1, 2, 1);
const OTHER: Ipv4Addr = Ipv4Addr::new(10, 1, 2, 2);
const PORT: u16 = 1_000;

/// How long until a byte came back; `None`: it did not.
fn ask(stream: &mut TcpStream, limit: Duration) -> Option<Duration> {
    let began = Instant::now();
    stream.set_read_timeout(Some(limit)).unwrap();
    stream.write_all(b"?").unwrap();
    let mut answer = [0];
    stream.read_exact(&mut answer).ok()?;
    Some(began.elapsed())
}

#[tokio::test]
async fn packets_between_places_are_carried_kept_back_and_lost_as_the_rules_say() {
    let Some((one, other, network)) = two_places() else {
        return;
    };
    let listener = other.run(|| TcpListener::bind((OTHER, PORT)).unwrap());
    let listener = listener.await.unwrap();
    let echo = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut byte = [0];
        while stream.read_exact(&mut byte).is_ok() {
            stream.write_all(&byte).unwrap();
        }
    });
    let connect = || TcpStream::connect_timeout(&(OTHER, PORT).into(), Duration::from_secs(5));
    let mut stream = one.run(move || connect().unwrap()).await.unwrap();
    let long = Duration::from_secs(10);
    assert!(ask(&mut stream, long).is_some());

    let late = Rule {
        delay: Duration::from_millis(60),
        ..Rule::default()
    };
    let id = network.install(vec![(1, 0)], late);
    assert!(ask(&mut stream, long).unwrap() >= late.delay);
    assert!(network.remove(id) > 0);

    let cut = Rule {
        cut: true,
        ..Rule::default()
    };
    // One way is enough for the answer to stay away; afterwards it is sent again.
    let id = network.install(vec![(1, 0)], cut);
    assert_eq!(ask(&mut stream, Duration::from_millis(300)), None);
    assert!(network.met(id) > 0);
    network.remove(id);
    let mut answer = [0];
    stream.set_read_timeout(Some(long)).unwrap();
    stream.read_exact(&mut answer).unwrap();

    // Repeated and turned round, they are still one stream.
    let mixed = Rule {
        duplicate_permille: 300,
        reorder_permille: 300,
        loss_permille: 50,
        ..Rule::default()
    };
    network.install(vec![(0, 1), (1, 0)], mixed);
    for _ in 0..30 {
        assert!(ask(&mut stream, long).is_some());
    }
    assert!(network.traffic().packets > 60 && network.broken().is_none());
    drop(stream);
    network.remove(3);
    echo.join().unwrap();
}

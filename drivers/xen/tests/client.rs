//! The client against the daemon, through the real ring page.

use proptest::prelude::*;
use spindle_hw::SharedPages;
use spindle_testkit::xenstored::Xenstored;
use spindle_xen::Errno;
use spindle_xen::store::{Client, Event, Priority, Reply, Request, Ring, TransactionError, UnitId};

struct Bed {
    client: Client,
    ring: Ring,
    daemon: Xenstored,
    watched: Vec<(String, String)>,
}

impl Bed {
    fn new(chunk: usize) -> Self {
        let page = SharedPages::host(1, 0);
        let mut daemon = Xenstored::new(page.alias(), 3);
        daemon.set_chunk(chunk);
        Self {
            client: Client::new(),
            ring: Ring::new(page),
            daemon,
            watched: Vec::new(),
        }
    }

    /// Runs until the unit of work gives something, collecting watch events.
    fn next(&mut self) -> Option<Event> {
        loop {
            match self.client.poll(&mut self.ring) {
                Some(Event::Watch { path, token }) => self.watched.push((
                    String::from_utf8(path).unwrap(),
                    String::from_utf8(token).unwrap(),
                )),
                Some(event) => return Some(event),
                None if self.daemon.step() => {}
                None => return None,
            }
        }
    }
}

fn read(path: &str) -> Request {
    Request::Read(path.into())
}

fn write(path: &str, value: &str) -> Request {
    Request::Write(path.into(), value.into())
}

#[test]
fn replies_come_in_order_whatever_the_splitting() {
    let every = if cfg!(miri) { 23 } else { 1 };
    for chunk in (1..60).rev().step_by(every).chain([1023, 1024, 5000]) {
        let mut bed = Bed::new(chunk);
        let many = (0..40).map(|i| write(&format!("data/{i}"), &"x".repeat(i * 7)));
        bed.client.send(many.collect(), Priority::Normal);
        assert!(
            matches!(bed.next(), Some(Event::Replies(_, all)) if all.len() == 40 && all.iter().all(Result::is_ok))
        );
        bed.client.send(
            (0..41).map(|i| read(&format!("data/{i}"))).collect(),
            Priority::Normal,
        );
        let Some(Event::Replies(_, all)) = bed.next() else {
            panic!()
        };
        for (i, reply) in all.iter().enumerate().take(40) {
            assert_eq!(reply.as_ref().unwrap().len(), i * 7);
        }
        assert_eq!(all[40], Err(Errno::ENOENT));
        assert!(bed.client.is_idle());
    }
}

#[test]
fn of_what_guests_write_no_more_is_kept_than_is_looked_at() {
    let mut bed = Bed::new(usize::MAX);
    bed.daemon
        .write("/local/domain/3/data/ring-ref", "7".repeat(2000));
    bed.daemon.write("/local/domain/3/data/state", "3");
    let path = |key| format!("data/{key}");
    let reads = ["ring-ref", "state"].map(|key| Request::ReadBrief(path(key)));
    bed.client.send(reads.to_vec(), Priority::Normal);
    let Some(Event::Replies(_, all)) = bed.next() else {
        panic!()
    };
    let kept = all[0].as_ref().unwrap();
    assert_eq!((kept.len(), kept.capacity()), (64, 64));
    assert_eq!(all[1], Ok(b"3".to_vec()));
    // What others write is read whole, also in the same batch.
    bed.client.send(
        vec![reads[0].clone(), read(&path("ring-ref"))],
        Priority::Normal,
    );
    let Some(Event::Replies(_, all)) = bed.next() else {
        panic!()
    };
    let lengths: Vec<usize> = all.iter().map(|r| r.as_ref().unwrap().len()).collect();
    assert_eq!(lengths, [64, 2000]);
}

#[test]
fn what_is_too_long_or_forbidden_is_an_error_of_that_request_only() {
    let mut bed = Bed::new(usize::MAX);
    bed.daemon.make("/local/domain/9", b"", 9, &[]);
    let long = Request::Write("data/long".into(), vec![b'x'; 5000]);
    bed.client.send(
        vec![long, write("/local/domain/9/x", "1"), write("data/a", "1")],
        Priority::Normal,
    );
    let Some(Event::Replies(_, all)) = bed.next() else {
        panic!()
    };
    assert_eq!(all[0], Err(Errno::E2BIG));
    assert_eq!(all[1], Err(Errno::EACCES));
    assert!(all[2].is_ok());
}

/// A transaction that is open and has read `reads`.
fn open(bed: &mut Bed, reads: Vec<Request>, expected: &[Reply]) -> UnitId {
    let unit = bed.client.begin(vec![], Priority::Normal);
    assert_eq!(bed.next(), Some(Event::Replies(unit, vec![])));
    bed.client.within(unit, vec![], reads);
    assert_eq!(bed.next(), Some(Event::Replies(unit, expected.to_vec())));
    unit
}

#[test]
fn a_transaction_commits_or_leaves_nothing_behind() {
    let mut bed = Bed::new(7);
    bed.daemon.write("/local/domain/3/data/a", "1");
    let unit = open(&mut bed, vec![read("data/a")], &[Ok(b"1".to_vec())]);
    bed.client
        .commit(unit, vec![write("data/a", "2"), write("data/b", "3")]);
    assert_eq!(bed.next(), Some(Event::Ended(unit, Ok(()))));
    assert_eq!(bed.daemon.text("/local/domain/3/data/b"), Some("3"));

    // Somebody changes what was read.
    let conflict = Err(TransactionError::Conflict);
    for changes in [1, 2] {
        let unit = open(&mut bed, vec![read("data/a")], &[Ok(b"2".to_vec())]);
        bed.daemon.write("/local/domain/3/data/a", "2");
        bed.client.commit(unit, vec![write("data/b", "4"); changes]);
        assert_eq!(bed.next(), Some(Event::Ended(unit, conflict)));
        assert_eq!(bed.daemon.text("/local/domain/3/data/b"), Some("3"));
    }

    // One of the changes is refused, or the only one.
    bed.daemon
        .fail_writes("/local/domain/3/data/c", Some("ENOSPC"));
    let refused = Err(TransactionError::Refused(Errno::ENOSPC));
    for before in [0, 1, 5] {
        let unit = open(&mut bed, vec![], &[]);
        let mut changes = vec![write("data/b", "5"); before];
        changes.push(write("data/c", "6"));
        changes.resize(2 * before + 1, write("data/d", "7"));
        bed.client.commit(unit, changes);
        assert_eq!(bed.next(), Some(Event::Ended(unit, refused)));
        assert_eq!(bed.next(), None);
        assert_eq!(bed.daemon.text("/local/domain/3/data/b"), Some("3"));
        assert_eq!(bed.daemon.open_transactions(), 0);
    }

    // To remove what is gone already is no failure.
    let unit = open(&mut bed, vec![], &[]);
    let gone = Request::Remove("data/gone".into());
    bed.client.commit(unit, vec![gone]);
    assert_eq!(bed.next(), Some(Event::Ended(unit, Ok(()))));

    // Nothing to change.
    let unit = open(&mut bed, vec![], &[]);
    bed.client.abandon(unit);
    assert!(bed.client.is_idle());
    assert_eq!(bed.next(), None);
    assert_eq!(bed.daemon.open_transactions(), 0);

    // There are no transactions left.
    let units: Vec<_> = (0..10).map(|_| open(&mut bed, vec![], &[])).collect();
    let unit = bed.client.begin(vec![read("data/a")], Priority::Normal);
    assert_eq!(bed.next(), Some(Event::Ended(unit, refused)));
    units.into_iter().for_each(|unit| bed.client.abandon(unit));
    assert_eq!(bed.next(), None);
    assert_eq!(bed.daemon.open_transactions(), 0);
}

#[test]
fn units_of_work_do_not_wait_for_each_other() {
    let mut bed = Bed::new(usize::MAX);
    bed.daemon.set_pace(10, 0);
    let units: Vec<_> = (0..8)
        .map(|i| {
            bed.client
                .begin(vec![write(&format!("data/{i}"), "1")], Priority::Urgent)
        })
        .collect();
    assert_eq!(bed.next(), None);
    bed.daemon.set_now(10);
    for (i, unit) in units.iter().enumerate() {
        let replies = vec![Ok(b"OK\0".to_vec())];
        assert_eq!(bed.next(), Some(Event::Replies(*unit, replies)));
        let path = format!("data/{i}");
        bed.client
            .commit(*unit, vec![write(&path, "2"), write(&path, "3")]);
    }
    // The changes take a round trip, and the commit another one.
    for now in [20, 30] {
        assert_eq!(bed.next(), None);
        assert_eq!(
            bed.daemon.open_transactions(),
            if now == 20 { 8 } else { 0 }
        );
        bed.daemon.set_now(now);
    }
    for unit in units {
        assert_eq!(bed.next(), Some(Event::Ended(unit, Ok(()))));
    }
}

#[test]
fn what_is_less_urgent_gives_way() {
    for (priority, before) in [(Priority::Background, 16), (Priority::Normal, 24)] {
        let mut bed = Bed::new(usize::MAX);
        bed.daemon.set_pace(1, 1);
        let values = (0..300).map(|i| write(&format!("data/{i}"), "x"));
        let many = bed.client.send(values.collect(), priority);
        assert_eq!(bed.next(), None);
        // Five batches, each after the answers to the one before.
        let mut now = 0;
        let mut run = |bed: &mut Bed| loop {
            now += 1;
            bed.daemon.set_now(now);
            if let Some(event) = bed.next() {
                return (event, now);
            }
        };
        for batch in 0..5 {
            let first = bed
                .client
                .begin(vec![write("data/y", "1")], Priority::Urgent);
            let (event, at) = run(&mut bed);
            assert!(matches!(event, Event::Replies(unit, _) if unit == first));
            // Behind those that were on their way already, and a few.
            assert!(at <= before + 2 + batch * 6 + 2, "{at} {batch}");
            bed.client.abandon(first);
        }
        // And in the end all is done.
        assert!(matches!(run(&mut bed), (Event::Replies(unit, _), _) if unit == many));
    }
}

#[test]
fn watch_events_come_between_replies_with_their_token() {
    let mut bed = Bed::new(3);
    bed.client.send(
        vec![
            Request::Watch("data".into(), "t".into()),
            write("data/x", "1"),
        ],
        Priority::Normal,
    );
    assert!(matches!(bed.next(), Some(Event::Replies(..))));
    assert_eq!(bed.next(), None);
    let expected = [("data", "t"), ("data/x", "t")];
    assert_eq!(
        bed.watched,
        expected.map(|(a, b)| (a.to_string(), b.to_string()))
    );
    bed.client
        .post(vec![Request::Unwatch("data".into(), "t".into())]);
    assert_eq!(bed.next(), None);
    assert_eq!(bed.daemon.watch_count(), 0);
}

#[test]
fn a_late_reply_is_ignored_and_an_impossible_one_ends_the_client() {
    let mut bed = Bed::new(usize::MAX);
    let mut stray = Vec::new();
    for word in [2u32, 77, 0, 1] {
        stray.extend(word.to_le_bytes());
    }
    stray.push(b'x');
    bed.daemon.inject_bytes(&stray);
    bed.client
        .send(vec![write("data/x", "1")], Priority::Normal);
    assert!(matches!(bed.next(), Some(Event::Replies(_, all)) if all[0].is_ok()));
    bed.daemon.inject_bytes(&[0xff; 16]);
    assert_eq!(bed.next(), Some(Event::Broken));
    assert_eq!(bed.next(), None);
    assert!(bed.client.is_broken() && !bed.client.is_idle());
}

proptest! {
    #[test]
    fn rubbish_from_the_daemon_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
        let mut bed = Bed::new(100);
        bed.daemon.inject_bytes(&bytes);
        bed.client.begin(vec![read("data")], Priority::Normal);
        // The client may hand over rubbish paths; only their being bytes is promised.
        for _ in 0..500 {
            while bed.client.poll(&mut bed.ring).is_some() {}
            if !bed.daemon.step() {
                break;
            }
        }
    }
}

//! The client against the daemon, through the real ring page.

use proptest::prelude::*;
use spindle_hw::SharedPages;
use spindle_testkit::xenstored::Xenstored;
use spindle_xen::Errno;
use spindle_xen::store::{Client, Event, Request, Ring, TransactionError};

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
        bed.client.send(many.collect());
        assert!(
            matches!(bed.next(), Some(Event::Replies(all)) if all.len() == 40 && all.iter().all(Result::is_ok))
        );
        bed.client
            .send((0..41).map(|i| read(&format!("data/{i}"))).collect());
        let Some(Event::Replies(all)) = bed.next() else {
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
    let reads = ["ring-ref", "state"].map(|key| read(&format!("data/{key}")));
    bed.client.send_brief(reads.to_vec());
    let Some(Event::Replies(all)) = bed.next() else {
        panic!()
    };
    let kept = all[0].as_ref().unwrap();
    assert_eq!((kept.len(), kept.capacity()), (64, 64));
    assert_eq!(all[1], Ok(b"3".to_vec()));
    // The next batch is whole again.
    bed.client.send(reads.to_vec());
    assert!(
        matches!(bed.next(), Some(Event::Replies(all)) if all[0].as_ref().unwrap().len() == 2000)
    );
}

#[test]
fn what_is_too_long_or_forbidden_is_an_error_of_that_request_only() {
    let mut bed = Bed::new(usize::MAX);
    bed.daemon.make("/local/domain/9", b"", 9, &[]);
    let long = Request::Write("data/long".into(), vec![b'x'; 5000]);
    bed.client.send(vec![
        long,
        write("/local/domain/9/x", "1"),
        write("data/a", "1"),
    ]);
    let Some(Event::Replies(all)) = bed.next() else {
        panic!()
    };
    assert_eq!(all[0], Err(Errno::E2BIG));
    assert_eq!(all[1], Err(Errno::EACCES));
    assert!(all[2].is_ok());
}

#[test]
fn a_transaction_commits_or_leaves_nothing_behind() {
    let mut bed = Bed::new(7);
    bed.daemon.write("/local/domain/3/data/a", "1");
    bed.client.begin(vec![read("data/a")]);
    assert_eq!(bed.next(), Some(Event::Replies(vec![Ok(b"1".to_vec())])));
    bed.client
        .commit(vec![write("data/a", "2"), write("data/b", "3")]);
    assert_eq!(bed.next(), Some(Event::Ended(Ok(()))));
    assert_eq!(bed.daemon.text("/local/domain/3/data/b"), Some("3"));

    // Somebody changes what was read.
    bed.client.begin(vec![read("data/a")]);
    assert!(matches!(bed.next(), Some(Event::Replies(_))));
    bed.daemon.write("/local/domain/3/data/a", "x");
    bed.client.commit(vec![write("data/b", "4")]);
    assert_eq!(
        bed.next(),
        Some(Event::Ended(Err(TransactionError::Conflict)))
    );
    assert_eq!(bed.daemon.text("/local/domain/3/data/b"), Some("3"));

    // One of the changes is refused.
    bed.daemon
        .fail_writes("/local/domain/3/data/c", Some("ENOSPC"));
    bed.client.begin(vec![]);
    assert_eq!(bed.next(), Some(Event::Replies(vec![])));
    bed.client
        .commit(vec![write("data/b", "5"), write("data/c", "6")]);
    let refused = TransactionError::Refused(Errno::ENOSPC);
    assert_eq!(bed.next(), Some(Event::Ended(Err(refused))));
    assert_eq!(bed.daemon.text("/local/domain/3/data/b"), Some("3"));

    // Nothing to change.
    bed.client.begin(vec![]);
    bed.next();
    bed.client.commit(vec![]);
    assert_eq!(bed.next(), Some(Event::Ended(Ok(()))));
    assert_eq!(bed.daemon.open_transactions(), 0);
}

#[test]
fn watch_events_come_between_replies_with_their_token() {
    let mut bed = Bed::new(3);
    bed.client.send(vec![
        Request::Watch("data".into(), "t".into()),
        write("data/x", "1"),
    ]);
    assert!(matches!(bed.next(), Some(Event::Replies(_))));
    assert_eq!(bed.next(), None);
    let expected = [("data", "t"), ("data/x", "t")];
    assert_eq!(
        bed.watched,
        expected.map(|(a, b)| (a.to_string(), b.to_string()))
    );
    bed.client
        .send(vec![Request::Unwatch("data".into(), "t".into())]);
    bed.next();
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
    bed.client.send(vec![write("data/x", "1")]);
    assert!(matches!(bed.next(), Some(Event::Replies(all)) if all[0].is_ok()));
    bed.daemon.inject_bytes(&[0xff; 16]);
    assert_eq!(bed.next(), Some(Event::Broken));
    assert_eq!(bed.next(), None);
    assert!(!bed.client.is_idle());
}

proptest! {
    #[test]
    fn rubbish_from_the_daemon_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
        let mut bed = Bed::new(100);
        bed.daemon.inject_bytes(&bytes);
        bed.client.begin(vec![read("data")]);
        // The client may hand over rubbish paths; only their being bytes is promised.
        for _ in 0..500 {
            while bed.client.poll(&mut bed.ring).is_some() {}
            if !bed.daemon.step() {
                break;
            }
        }
    }
}

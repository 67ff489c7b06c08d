//! A kernel that dies at any moment of its talk with xenstored, and the next life's way back in step.

use proptest::prelude::*;
use spindle_hw::SharedPages;
use spindle_testkit::xenstored::Xenstored;
use spindle_xen::store::{
    Client, Event, KEPT_STREAM_PAGES, KeptStream, Priority, Request, Resume, Ring,
};

const HOME: &str = "/local/domain/3";

/// The pages that outlive the kernel, and the daemon.
struct Domain {
    ring: SharedPages,
    kept: SharedPages,
    daemon: Xenstored,
}

impl Domain {
    fn new(chunk: usize) -> Self {
        let ring = SharedPages::host(1, 0);
        let mut daemon = Xenstored::new(ring.alias(), 3);
        daemon.set_chunk(chunk);
        let kept = SharedPages::host(KEPT_STREAM_PAGES, 0);
        Self { ring, kept, daemon }
    }

    fn ring(&self, again: bool) -> Ring {
        let kept = KeptStream::new(self.kept.alias());
        Ring::keeping(self.ring.alias(), kept, again)
    }

    /// A later life's ring, in step.
    fn resume(&mut self) -> Ring {
        let mut ring = self.ring(true);
        let mut resume = Resume::new(&ring).unwrap();
        while !resume.poll(&mut ring).unwrap() {
            assert!(self.daemon.step(), "both wait for each other");
        }
        ring
    }

    /// Has the client work until it is done; what came.
    fn finish(&mut self, client: &mut Client, ring: &mut Ring) -> Vec<Event> {
        let mut events = Vec::new();
        loop {
            match client.poll(ring) {
                Some(event) => events.push(event),
                None if self.daemon.step() => {}
                None => return events,
            }
        }
    }
}

fn work(client: &mut Client, life: u8) {
    let value = |index: u8| vec![b'a' + index; 400 + 300 * usize::from(index)];
    let mut requests = vec![
        Request::Watch("data/watched".into(), "token".into()),
        Request::Write("data/watched".into(), vec![b'0' + life]),
    ];
    for index in 0..4 {
        requests.push(Request::Write(format!("data/{index}"), value(index)));
        requests.push(Request::Read(format!("data/{index}")));
    }
    client.begin(vec![Request::Read("data/0".into())], Priority::Normal);
    client.send(requests, Priority::Normal);
}

proptest! {
    #[test]
    fn the_next_life_goes_on_wherever_the_last_one_died(
        chunk in 1_usize..700,
        lives in proptest::collection::vec(proptest::collection::vec(any::<bool>(), 0..60), 1..4),
    ) {
        let mut domain = Domain::new(chunk);
        let mut ring = domain.ring(false);
        for (life, steps) in lives.into_iter().enumerate() {
            let mut client = Client::new();
            work(&mut client, life as u8);
            for client_turns in steps {
                if client_turns {
                    let _ = client.poll(&mut ring);
                } else {
                    domain.daemon.step();
                }
            }
            drop((client, ring));
            ring = domain.resume();
            prop_assert_eq!(domain.daemon.watch_count(), 0);
            prop_assert_eq!(domain.daemon.open_transactions(), 0);
        }
        // Nothing of a request that was cut off is in a node, and no answer to it reaches another.
        for index in 0..4_u8 {
            if let Some(value) = domain.daemon.read(&format!("{HOME}/data/{index}")) {
                prop_assert_eq!(value, &vec![b'a' + index; 400 + 300 * usize::from(index)][..]);
            }
        }
        let mut client = Client::new();
        work(&mut client, 9);
        let events = domain.finish(&mut client, &mut ring);
        let answered = events.iter().filter_map(|event| match event {
            Event::Replies(_, replies) if replies.len() > 1 => Some(replies),
            _ => None,
        });
        let replies: Vec<_> = answered.collect();
        prop_assert_eq!(replies.len(), 1);
        prop_assert!(replies[0].iter().all(Result::is_ok));
        prop_assert_eq!(domain.daemon.watch_count(), 1);
        let fired = events.iter().filter(|event| matches!(event, Event::Watch { .. })).count();
        // One when it was set, one for the write.
        prop_assert_eq!(fired, 2);
    }

    #[test]
    fn whatever_was_kept_is_taken_or_refused(words in proptest::collection::vec(any::<u32>(), 4)) {
        let domain = Domain::new(1000);
        for (index, word) in words.iter().enumerate() {
            domain.kept.u32_at(index * 4).store(*word, std::sync::atomic::Ordering::Relaxed);
        }
        let ring = domain.ring(true);
        let _ = Resume::new(&ring);
    }
}

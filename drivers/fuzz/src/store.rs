//! A xenstored that answers anything at all, under the client's units of work.

use std::sync::atomic::Ordering::Relaxed;

use arbitrary::{Arbitrary, Unstructured};
use spindle_hw::SharedPages;
use spindle_xen::store::wire::{Header, MessageType};
use spindle_xen::store::{Client, Event, Priority, Request, Ring, UnitId};

use crate::steps;
use zerocopy::IntoBytes;

const RSP: usize = 1024;
const REQ_CONS: usize = 2048;
const REQ_PROD: usize = 2052;
const RSP_PROD: usize = 2060;

#[derive(Arbitrary, Debug)]
enum Step<'a> {
    /// The owner starts a unit of work, if there are not too many.
    Send(Vec<Ask>, u8),
    Post(Vec<Ask>),
    Begin(Vec<Ask>, u8),
    /// The owner goes on with one of its units, in whatever state it is.
    Within(u8, Vec<Ask>, Vec<Ask>),
    Commit(u8, Vec<Ask>),
    Abandon(u8),
    /// xenstored takes what was sent.
    Take,
    /// A reply that looks like one; `back` counts from the youngest request.
    Reply {
        kind: u8,
        back: u8,
        transaction: u8,
        payload: &'a [u8],
    },
    /// As [`Step::Reply`], to each of the youngest requests, so that a unit of work may end.
    Replies(u8),
    Bytes(&'a [u8]),
    Index(u8, u32),
}

#[derive(Arbitrary, Debug)]
enum Ask {
    Read,
    ReadBrief,
    Directory,
    Write(u16),
    Remove,
    Watch,
    Unwatch,
}

impl Ask {
    fn request(&self) -> Request {
        let path = || String::from("backend/vbd/5/51712/state");
        let token = || String::from("t");
        match self {
            Self::Read => Request::Read(path()),
            Self::ReadBrief => Request::ReadBrief(path()),
            Self::Directory => Request::Directory(path()),
            Self::Write(len) => Request::Write(path(), vec![b'4'; usize::from(*len)]),
            Self::Remove => Request::Remove(path()),
            Self::Watch => Request::Watch(path(), token()),
            Self::Unwatch => Request::Unwatch(path(), token()),
        }
    }
}

fn requests(asks: &[Ask]) -> Vec<Request> {
    asks.iter().take(64).map(Ask::request).collect()
}

struct Daemon {
    page: SharedPages,
    /// Requests that the client may have made: those in `0..asked`.
    asked: u32,
}

impl Daemon {
    /// Writes as much as there is room for, so that the client loses the thread.
    fn write(&self, bytes: &[u8]) {
        let prod = self.page.u32_at(RSP_PROD).load(Relaxed);
        let mut at = prod;
        for &byte in bytes.iter().take(1024) {
            self.page.write_bytes(RSP + (at % 1024) as usize, &[byte]);
            at = at.wrapping_add(1);
        }
        self.page.u32_at(RSP_PROD).store(at, Relaxed);
    }

    fn reply(&self, kind: u8, request: u32, transaction: u8, payload: &[u8]) {
        let payload = &payload[..payload.len().min(500)];
        let header = Header {
            message: MessageType(u32::from(kind) % 20),
            request,
            transaction: transaction.into(),
            len: payload.len() as u32,
        };
        self.write(header.as_bytes());
        self.write(payload);
    }

    fn take(&self) {
        let prod = self.page.u32_at(REQ_PROD).load(Relaxed);
        self.page.u32_at(REQ_CONS).store(prod, Relaxed);
    }
}

const PRIORITIES: [Priority; 3] = [Priority::Urgent, Priority::Normal, Priority::Background];

/// Units of work at a time.
const UNITS: usize = 8;

/// What the owner waits for of a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    /// So many replies; then the unit has ended.
    Last(usize),
    /// So many replies; then the transaction is open.
    Replies(usize),
    /// Nothing: the owner may go on with the transaction.
    Open,
    End,
}

/// The owner's books.
#[derive(Default)]
struct Owner {
    units: Vec<(UnitId, Due)>,
}

impl Owner {
    /// One of the units, if its transaction is open.
    fn open(&mut self, which: u8) -> Option<usize> {
        let at = usize::from(which) % self.units.len().max(1);
        (self.units.get(at)?.1 == Due::Open).then_some(at)
    }

    fn act(&mut self, client: &mut Client, step: Step<'_>) {
        let more = self.units.len() < UNITS && !client.is_broken();
        match step {
            Step::Send(asks, priority) if more => {
                let asks = requests(&asks);
                let due = Due::Last(asks.len());
                let unit = client.send(asks, PRIORITIES[usize::from(priority) % 3]);
                self.units.push((unit, due));
            }
            Step::Begin(asks, priority) if more => {
                let asks = requests(&asks);
                let due = Due::Replies(asks.len());
                let unit = client.begin(asks, PRIORITIES[usize::from(priority) % 3]);
                self.units.push((unit, due));
            }
            Step::Post(asks) if more => client.post(requests(&asks)),
            Step::Within(which, outside, inside) => {
                let (outside, inside) = (requests(&outside), requests(&inside));
                if let Some(at) = self.open(which) {
                    self.units[at].1 = Due::Replies(outside.len() + inside.len());
                    client.within(self.units[at].0, outside, inside);
                } else if let Some((unit, _)) = self.units.first().filter(|u| u.1 != Due::Open) {
                    client.within(*unit, outside, inside);
                }
            }
            Step::Commit(which, asks) => {
                if let Some(at) = self.open(which) {
                    self.units[at].1 = Due::End;
                    client.commit(self.units[at].0, requests(&asks));
                }
            }
            Step::Abandon(which) => {
                if let Some(at) = self.open(which) {
                    client.abandon(self.units.swap_remove(at).0);
                }
            }
            _ => {}
        }
    }

    fn heard(&mut self, event: Event) {
        let (unit, replies) = match &event {
            Event::Watch { path, token } => {
                return assert!(path.len() + token.len() <= 4096);
            }
            Event::Broken => return,
            Event::Replies(unit, replies) => (*unit, Some(replies.len())),
            Event::Ended(unit, _) => (*unit, None),
        };
        let at = self.units.iter().position(|known| known.0 == unit);
        let at = at.expect("an event of a unit that has ended");
        let due = self.units[at].1;
        match (due, replies) {
            (Due::Last(count), Some(got)) => {
                assert_eq!(count, got);
                self.units.swap_remove(at);
            }
            (Due::Replies(count), Some(got)) => {
                assert_eq!(count, got);
                self.units[at].1 = Due::Open;
            }
            // Also a transaction that could not be started.
            (Due::End | Due::Replies(_), None) => drop(self.units.swap_remove(at)),
            _ => panic!("{event:?} while {due:?} is due"),
        }
    }
}

/// Runs the target.
///
/// # Panics
/// If something does not hold that must.
pub fn run(data: &[u8]) {
    let page = SharedPages::host(1, 0);
    let mut daemon = Daemon {
        page: page.alias(),
        asked: 1,
    };
    let mut ring = Ring::new(page);
    let mut client = Client::new();
    let mut owner = Owner::default();
    let mut broken = false;
    let mut input = Unstructured::new(data);
    for (_, step) in steps(&mut input, u32::MAX) {
        match step {
            Step::Take => daemon.take(),
            Step::Reply {
                kind,
                back,
                transaction,
                payload,
            } => {
                let request = daemon.asked.wrapping_sub(back.into());
                daemon.reply(kind, request, transaction, payload);
            }
            Step::Replies(kind) => {
                for request in daemon.asked.saturating_sub(3)..daemon.asked + 17 {
                    daemon.reply(kind, request, 0, b"1\0");
                }
            }
            Step::Bytes(bytes) => daemon.write(bytes),
            Step::Index(which, value) => {
                let at = [REQ_CONS, RSP_PROD][usize::from(which) % 2];
                daemon.page.u32_at(at).store(value, Relaxed);
            }
            step => owner.act(&mut client, step),
        }
        // More than a ring can hold of the smallest things that there are.
        let mut left = 4096;
        while let Some(event) = client.poll(&mut ring) {
            left -= 1;
            assert!(left > 0, "events without end");
            assert!(!broken, "an event after the end");
            broken = event == Event::Broken;
            daemon.asked += match &event {
                Event::Replies(_, replies) => replies.len() as u32,
                Event::Ended(..) => 1,
                _ => 0,
            };
            owner.heard(event);
        }
        assert_eq!(client.is_broken(), broken);
        assert_eq!(client.is_idle(), owner.units.is_empty() && !broken);
    }
}

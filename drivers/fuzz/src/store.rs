//! A xenstored that answers anything at all, under the client's units of work.

use std::sync::atomic::Ordering::Relaxed;

use arbitrary::{Arbitrary, Unstructured};
use spindle_hw::SharedPages;
use spindle_xen::store::wire::{Header, MessageType};
use spindle_xen::store::{Client, Event, Request, Ring};

use crate::steps;
use zerocopy::IntoBytes;

const RSP: usize = 1024;
const REQ_CONS: usize = 2048;
const REQ_PROD: usize = 2052;
const RSP_PROD: usize = 2060;

#[derive(Arbitrary, Debug)]
enum Step<'a> {
    /// The owner starts a unit of work, if there is none.
    Send(Vec<Ask>),
    Begin(Vec<Ask>),
    Commit(Vec<Ask>),
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

/// What the owner waits for.
#[derive(Debug, PartialEq, Eq)]
enum Due {
    Nothing,
    Replies(usize, bool),
    End,
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
    let mut due = Due::Nothing;
    let mut open = false;
    let mut broken = false;
    let mut input = Unstructured::new(data);
    for (_, step) in steps(&mut input, u32::MAX) {
        match step {
            Step::Send(asks) if client.is_idle() => {
                client.send(requests(&asks));
                due = Due::Replies(asks.len().min(64), false);
            }
            Step::Begin(asks) if client.is_idle() => {
                client.begin(requests(&asks));
                due = Due::Replies(asks.len().min(64), true);
            }
            Step::Commit(asks) if open => {
                client.commit(requests(&asks));
                (due, open) = (Due::End, false);
            }
            Step::Send(_) | Step::Begin(_) | Step::Commit(_) => {}
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
        }
        // More than a ring can hold of the smallest things that there are.
        let mut left = 4096;
        while let Some(event) = client.poll(&mut ring) {
            left -= 1;
            assert!(left > 0, "events without end");
            assert!(!broken, "an event after the end");
            match event {
                Event::Watch { path, token } => assert!(path.len() + token.len() <= 4096),
                Event::Replies(replies) => {
                    let Due::Replies(count, transaction) = due else {
                        panic!("replies while {due:?} is due");
                    };
                    assert_eq!(replies.len(), count);
                    daemon.asked += count as u32;
                    (due, open) = (Due::Nothing, transaction);
                }
                Event::Ended(_) => {
                    assert!(matches!(due, Due::End | Due::Replies(_, true)));
                    daemon.asked += 1;
                    due = Due::Nothing;
                }
                Event::Broken => broken = true,
            }
        }
        assert_eq!(client.is_idle(), due == Due::Nothing && !open && !broken);
    }
}

//! Replies that do not fit what was asked for.

use spindle_hw::SharedPages;
use spindle_testkit::xenstored::Xenstored;
use spindle_xen::Errno;
use spindle_xen::store::{Client, Event, Priority, Request, Ring};

/// XS_READ and XS_WRITE (xen/include/public/io/xs_wire.h).
const READ: u32 = 2;
const WRITE: u32 = 11;

/// What a write gets whose answer is of this type, whatever its number is.
fn answered_as(kind: u32) -> Result<Vec<u8>, Errno> {
    let page = SharedPages::host(1, 0);
    let mut daemon = Xenstored::new(page.alias(), 3);
    let (mut client, mut ring) = (Client::new(), Ring::new(page));
    let write = Request::Write("data/x".into(), b"1".to_vec());
    client.send(vec![write], Priority::Normal);
    assert_eq!(client.poll(&mut ring), None, "it is on its way");
    for number in 0..16 {
        let mut reply = Vec::new();
        for word in [kind, number, 0, 3] {
            reply.extend(word.to_le_bytes());
        }
        reply.extend(b"OK\0");
        daemon.inject_bytes(&reply);
    }
    loop {
        match client.poll(&mut ring) {
            Some(Event::Replies(_, mut all)) => return all.remove(0),
            Some(other) => panic!("{other:?}"),
            None => assert!(daemon.step(), "an answer is on its way"),
        }
    }
}

#[test]
fn an_answer_to_another_question_is_an_error_and_no_success() {
    assert_eq!(answered_as(WRITE), Ok(b"OK\0".to_vec()));
    assert_eq!(answered_as(READ), Err(Errno::EIO));
}

//! `update`: what is refused, what is asked, and what becomes of the answers.

use std::time::Duration;

use anyhow::Result;
use spindle_kept::image::{HEAD_LEN, HEAD_MAGIC, HEAD_VERSION, LAYOUTS};

use crate::fake::{Failure, Fake};
use crate::update::{Update, update};

const PATH: &str = "/root/new.elf";
const START: u64 = 0x20_0000;

/// A file with an image of two pages.
fn image() -> Vec<u8> {
    let mut file = vec![0; 0x2100];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"\x7fELF\x02\x01\x01");
    put(16, &[2, 0, 62, 0, 1]);
    put(32, &64_u64.to_le_bytes());
    put(54, &56_u16.to_le_bytes());
    put(56, &2_u16.to_le_bytes());
    let entry = START + HEAD_LEN as u64;
    for (number, kind, at, len) in [(0, 1_u32, 0x100, 0x2000_u64), (1, 4, 0x20e8, 24)] {
        let here = 64 + number * 56;
        put(here, &kind.to_le_bytes());
        for (word, value) in [at, START, START, len, len].into_iter().enumerate() {
            put(here + 8 + word * 8, &value.to_le_bytes());
        }
    }
    put(0x100, &HEAD_MAGIC.to_le_bytes());
    for (word, value) in [HEAD_VERSION, LAYOUTS.0, LAYOUTS.1].into_iter().enumerate() {
        put(0x108 + word * 4, &value.to_le_bytes());
    }
    let end = START + 0x2000;
    for (word, value) in [START, entry, end, end, end].into_iter().enumerate() {
        put(0x118 + word * 8, &value.to_le_bytes());
    }
    put(0x140, b"9.9.9 new");
    put(0x20e8, &[4, 0, 0, 0, 8, 0, 0, 0, 18, 0, 0, 0]);
    put(0x20e8 + 12, b"Xen\0");
    put(0x20e8 + 16, &entry.to_le_bytes());
    file
}

fn host(answers: &[&'static str]) -> Fake {
    let mut host = Fake::serving();
    host.images.insert(PATH.into(), image());
    host.update_answers = answers.to_vec();
    host
}

fn asked() -> Update<'static> {
    Update {
        name: "spindle",
        image: Some(PATH),
        dry_run: false,
        patience: Duration::from_secs(10),
    }
}

fn run(host: &mut Fake, dry_run: bool) -> Result<String> {
    let args = Update { dry_run, ..asked() };
    update(host, &args, &mut |_| {})
}

#[test]
fn a_dry_run_names_what_would_be_kept() {
    let mut host = host(&[
        "fits: 9.9.9 new, 8192 bytes; nvme0 stays enabled; nvme1 is to be reset: it is lost",
    ]);
    host.store("/local/domain/3/data/spindle/stat/5-51728", "rings=1");
    for (device, vdev, state) in [
        (51728, "xvdb", "5"),
        (51744, "xvdc", "4"),
        (51760, "xvdd", "2"),
    ] {
        let back = format!("/local/domain/3/backend/vbd/5/{device}");
        host.store(&format!("{back}/dev"), vdev);
        host.store(&format!("{back}/params"), "ram0");
        host.store(&format!("{back}/state"), state);
    }
    let mut said = Vec::new();
    let args = Update {
        dry_run: true,
        ..asked()
    };
    update(&mut host, &args, &mut |line| said.push(line.to_string())).expect("fits");
    let kept: Vec<_> = said.iter().map(String::as_str).skip(2).collect();
    assert_eq!(
        kept,
        [
            "web xvda (nvme0n1): kept, with its 2 rings",
            "web xvdb (ram0): kept, with its ring",
            "web xvdc (ram0): kept, with its rings",
            "web xvdd (ram0): not connected, nothing to keep",
            "nvme0 stays enabled",
            "nvme1 is to be reset: it is lost"
        ]
    );
    // What is refused keeps nothing.
    host.update_answers = vec!["refused: an update is under way"];
    said.clear();
    update(&mut host, &args, &mut |line| said.push(line.to_string())).expect_err("refused");
    assert_eq!(said.len(), 2);
}

fn changes(host: &Fake) -> Vec<&str> {
    let changes = host.calls.iter().filter(|call| call.changes);
    changes.map(|call| call.text.as_str()).collect()
}

#[test]
fn an_image_is_granted_and_the_domain_is_asked_to_change_over() {
    let mut host = host(&["done: 9.9.9 new follows 0.1.0 abcdef, 40 ms"]);
    let said = run(&mut host, false).expect("updated");
    assert!(said.starts_with("spindle: 9.9.9 new follows 0.1.0 abcdef, 40 ms"));
    assert_eq!(
        changes(&host),
        [
            "modprobe xen-gntalloc",
            "xenstore-write /local/domain/3/data/spindle/update '2 8'"
        ]
    );
    let lens: Vec<_> = host.granted.iter().map(Vec::len).collect();
    assert_eq!(lens, [0x2000, 4096]);
    assert_eq!(host.granted[0], image()[0x100..0x2100]);
}

#[test]
fn what_the_domain_refuses_or_has_undone_is_an_error() {
    for (answer, expected) in [
        (
            "refused: its checksum is wrong",
            "spindle refused: its checksum is wrong; nothing was done",
        ),
        (
            "failed: 0.1.0 runs again instead of 9.9.9",
            "the update failed: 0.1.0 runs again",
        ),
    ] {
        let error = run(&mut host(&[answer]), false).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn a_look_that_fails_is_not_the_last_one() {
    let mut probe = host(&["done: it runs"]);
    run(&mut probe, false).expect("updated");
    let look = |call: &crate::fake::Made| call.text.ends_with("data/spindle/updated");
    let first = probe.calls.iter().position(look).expect("a look");
    let mut host = host(&["done: it runs"]);
    host.fail(first, Failure::Before);
    host.fail(first + 1, Failure::Before);
    run(&mut host, false).expect("updated");
}

#[test]
fn an_image_that_hangs_is_ended() {
    let mut host = host(&["", "failed: 0.1.0 runs again instead of 9.9.9"]);
    let error = run(&mut host, false).unwrap_err().to_string();
    assert!(
        error.contains("the update failed: 0.1.0 runs again"),
        "{error}"
    );
    assert_eq!(changes(&host).last(), Some(&"xl trigger 3 nmi"));
}

#[test]
fn a_domain_that_cannot_be_updated_is_not_sent_an_interrupt() {
    let mut host = host(&[]);
    host.deaf = true;
    let error = run(&mut host, false).unwrap_err().to_string();
    assert!(error.contains("has not answered"), "{error}");
    assert!(!host.made("xl trigger"));
}

#[test]
fn a_dry_run_asks_for_the_checks_only() {
    let mut host = host(&["fits: 9.9.9 new, 8192 bytes"]);
    assert!(
        run(&mut host, true)
            .expect("fits")
            .contains("can be updated")
    );
    assert!(host.made("update '2 8 check'"));
    host.update_answers = vec!["refused: an update is under way"];
    let error = run(&mut host, true).unwrap_err().to_string();
    assert!(error.contains("an update is under way"), "{error}");
}

#[test]
fn a_bad_file_is_refused_before_anything_is_done() {
    let mut host = host(&[]);
    host.images.insert(PATH.into(), b"text".to_vec());
    let error = format!("{:#}", run(&mut host, false).unwrap_err());
    assert!(
        error.contains("cannot be updated to; nothing was done: it is not an ELF"),
        "{error}"
    );
    host.images.remove(PATH);
    let error = run(&mut host, false).unwrap_err().to_string();
    assert!(error.contains("cannot read /root/new.elf"), "{error}");
    assert!(changes(&host).is_empty());
    host.is_root = false;
    assert!(run(&mut host, false).is_err());
}

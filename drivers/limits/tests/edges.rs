//! What counts towards which limit, from when on, and which words are no value.

use std::sync::Arc;

use spindle_limits::{Allowance, IoLimits, Meters, RateKind, Usage};

const SECOND: u64 = 1_000_000_000;

fn limits(words: &str) -> IoLimits {
    let mut limits = IoLimits::default();
    limits.set_all(words).expect(words);
    limits
}

/// How long a ring waits that has done `used` since it began, under a limit of one a second or 4 KiB.
fn wait(words: &str, began: Usage, used: Usage) -> u64 {
    let meters = Arc::new(Meters::new(&limits(words), 0));
    let mut ring = Allowance::new([meters], Usage::default());
    ring.begin(began);
    // What it had before it began does not count.
    assert!(ring.pages(SECOND, || began) > 0);
    ring.take(u32::MAX);
    ring.pages(SECOND, || used);
    ring.from_ns().saturating_sub(SECOND)
}

#[test]
fn each_kind_of_limit_counts_what_it_is_of_and_all_of_that() {
    let none = Usage::default();
    let done = Usage {
        reads: 3,
        writes: 2,
        others: 1,
        sectors_read: 24,
        sectors_written: 16,
    };
    // The first was drawn before; what is beyond it is waited for, and for the next one.
    for (words, seconds) in [
        ("iops=1:burst=0", 6),
        ("iops-read=1:burst=0", 3),
        ("iops-write=1:burst=0", 2),
        ("bandwidth=4K:burst=0", 5),
        ("bandwidth-read=4K:burst=0", 3),
        ("bandwidth-write=4K:burst=0", 2),
    ] {
        assert_eq!(wait(words, none, done), seconds * SECOND, "{words}");
        // One that has done so much before it is limited begins with nothing owed.
        let later = Usage {
            reads: 6,
            writes: 4,
            others: 2,
            sectors_read: 48,
            sectors_written: 32,
        };
        assert_eq!(wait(words, done, later), seconds * SECOND, "{words}");
    }
}

#[test]
fn units_are_powers_of_1024_and_only_of_bytes() {
    let bytes = |text: &str| limits(&format!("bandwidth={text}")).limited().next();
    for (text, rate) in [
        ("8192", 8192),
        ("8K", 8 << 10),
        ("8k", 8 << 10),
        ("8M", 8 << 20),
        ("8m", 8 << 20),
        ("8G", 8 << 30),
        ("8g", 8 << 30),
    ] {
        assert_eq!(bytes(text), Some((RateKind::Bytes, rate)), "{text}");
    }
    for words in [
        "iops=8K",
        "iops=8M",
        "burst=1K",
        "burst=none",
        "weight=none",
        "bandwidth=K",
    ] {
        assert!(IoLimits::default().set_all(words).is_err(), "{words}");
    }
}

#[test]
fn what_is_said_is_told_from_what_is_not() {
    assert!(Meters::new(&limits("weight=3"), 0).is_empty());
    assert!(!Meters::new(&limits("iops=3"), 0).is_empty());
    assert!(!limits("iops=3").names_group());
    assert!(limits("group=none").names_group());
    assert!(limits("group=a").names_group());
}

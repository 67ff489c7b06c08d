//! The reason of each refusal, in the store where dom0 looks and in the log; and what the
//! toolstack may ask of the whole domain.

use std::cell::RefCell;

use spindle_testkit::xenbus::{BE, Bed, VBD};
use spindle_testkit::xenstored::Vbd;
use spindle_xen::Errno;
use spindle_xen::xenbus::{Refusal, ShutdownKind};

thread_local! {
    /// What this test's thread has logged as an error.
    static ERRORS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// A log that each test reads for itself.
struct ByThread;

impl log::Log for ByThread {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        if record.level() == log::Level::Error {
            ERRORS.with_borrow_mut(|errors| errors.push(record.args().to_string()));
        }
    }

    fn flush(&self) {}
}

/// Begins to read this thread's errors.
fn listen() {
    // Whichever test comes first sets it.
    let _ = log::set_logger(&ByThread);
    log::set_max_level(log::LevelFilter::Error);
    ERRORS.take();
}

/// A way to be refused: what is done to a bed, and what the reason must say.
type Way = (&'static str, fn(&mut Bed), &'static str);

/// Attaches the disk, writes this into the frontend's directory instead of what belongs there, and
/// has it go on to Initialised.
fn with_rubbish(bed: &mut Bed, key: &str, value: Option<&str>) {
    bed.attach(VBD);
    bed.run(600);
    for (key, good) in [("ring-ref", "8"), ("event-channel", "13")] {
        bed.store.write(&VBD.front(key), good);
    }
    match value {
        Some(value) => bed.store.write(&VBD.front(key), value),
        None => bed.store.remove(&VBD.front(key)),
    }
    VBD.set_front_state(&mut bed.store, 3);
}

const WAYS: [Way; 13] = [
    (
        "an unknown target",
        |bed| VBD.attach(&mut bed.store, "nvme9n1", "w"),
        "no such target",
    ),
    (
        "an unknown mode",
        |bed| VBD.attach(&mut bed.store, "lun0", "x"),
        "mode is \"x\"",
    ),
    (
        "a reader that shares",
        |bed| VBD.attach(&mut bed.store, "shared:lun0", "r"),
        "shared: is for writers",
    ),
    (
        "a target that is no text",
        |bed| {
            bed.attach(VBD);
            bed.store.write(&VBD.back("params"), b"\xff");
        },
        "params is \"\\xff\"",
    ),
    (
        "no target at all",
        |bed| {
            bed.attach(VBD);
            bed.store.remove(&VBD.back("params"));
        },
        "params is missing",
    ),
    (
        "a bad ring page alone",
        |bed| with_rubbish(bed, "ring-ref", Some("pdp")),
        "ring-ref is \"pdp\"",
    ),
    (
        "no ring page",
        |bed| with_rubbish(bed, "ring-ref", None),
        "ring-ref is missing",
    ),
    (
        "a bad event channel alone",
        |bed| with_rubbish(bed, "event-channel", Some("0")),
        "event-channel 0",
    ),
    (
        "no event channel",
        |bed| with_rubbish(bed, "event-channel", None),
        "event-channel is missing",
    ),
    (
        "a layout that is none",
        |bed| with_rubbish(bed, "protocol", Some("arm-abi")),
        "protocol is \"arm-abi\"",
    ),
    (
        "too many queues",
        |bed| with_rubbish(bed, "multi-queue-num-queues", Some("3")),
        "3 queues, 1 to 2 are offered",
    ),
    (
        "too many ring pages",
        |bed| with_rubbish(bed, "ring-page-order", Some("2")),
        "ring-page-order 2, at most 1",
    ),
    (
        "rings that cannot be mapped",
        |bed| {
            let why = Refusal::new(Errno::EFAULT, "ring page cannot be mapped");
            bed.kernel.refuse_connect = Some(why);
            bed.attach(VBD);
            bed.run(600);
            VBD.front_initialise(&mut bed.store);
        },
        "ring page cannot be mapped",
    ),
];

#[test]
fn every_refusal_is_in_the_store_and_once_in_the_log_with_the_same_reason() {
    listen();
    for (what, provoke, says) in WAYS {
        let mut bed = Bed::new();
        provoke(&mut bed);
        bed.settle();
        let shown = bed.error(VBD).unwrap_or_default();
        assert!(shown.contains(says), "{what}: {shown}");
        // As Linux does: the error's number first.
        let number = shown.split(' ').next().and_then(|n| n.parse::<u32>().ok());
        assert!(number.is_some_and(|n| n > 0), "{what}: {shown}");
        let logged = ERRORS.take();
        let lines = logged.iter().filter(|line| line.contains(shown));
        assert_eq!(lines.count(), 1, "{what}: {logged:?}");
        assert!(logged[0].contains("5/51712"), "which disk: {logged:?}");
        // It is not logged again however long the guest tries.
        bed.run(5000);
        assert!(ERRORS.take().is_empty(), "{what}");
    }
}

/// A ring that breaks the protocol while it is served is a refusal, too.
#[test]
fn a_ring_that_is_halted_is_told_in_the_store_and_in_the_log() {
    listen();
    let mut bed = Bed::new();
    bed.connect(VBD);
    let request = bed.kernel.connections.values().next().unwrap().clone();
    let why = Refusal::new(Errno::EINVAL, "ring halted: a bad index");
    bed.backend.failed(request.device, request.generation, why);
    bed.settle();
    assert_eq!(bed.error(VBD), Some("22 ring halted: a bad index"));
    let logged = ERRORS.take();
    assert!(
        logged.iter().any(|line| line.contains("a bad index")),
        "{logged:?}"
    );
}

#[test]
fn a_full_store_is_told_in_the_log_where_the_store_has_no_room_for_it() {
    listen();
    let mut bed = Bed::new();
    bed.settle();
    bed.attach(VBD);
    bed.store.set_quota(bed.store.owned());
    bed.run(60_000);
    let logged = ERRORS.take();
    let lines = logged.iter().filter(|line| line.contains("quota")).count();
    assert_eq!(lines, 1, "{logged:?}");
}

#[test]
fn one_device_too_many_of_a_guest_is_told_in_both_places() {
    listen();
    let mut bed = Bed::new();
    bed.store.set_quota(10_000);
    let vbds = (0..33).map(|n| Vbd {
        device: 51712 + 16 * n,
        ..VBD
    });
    let vbds: Vec<_> = vbds.collect();
    for vbd in &vbds {
        bed.attach(*vbd);
        bed.settle();
    }
    assert_eq!(vbds[31].back_state(&bed.store), 2);
    let shown = bed.error(vbds[32]).unwrap();
    assert!(shown.contains("32 are served already"), "{shown}");
    let logged = ERRORS.take();
    assert!(logged.iter().any(|line| line.contains(shown)), "{logged:?}");
}

/// What libxl looks for before it asks for one, and each word that it may write.
#[test]
fn every_shutdown_that_the_toolstack_knows_is_understood_and_acknowledged() {
    let control = |leaf: &str| format!("/local/domain/{BE}/control/{leaf}");
    for (word, expected) in [
        ("poweroff", Some(ShutdownKind::PowerOff)),
        ("halt", Some(ShutdownKind::Halt)),
        ("reboot", Some(ShutdownKind::Reboot)),
        ("suspend", None),
        ("", None),
    ] {
        let mut bed = Bed::new();
        bed.settle();
        for feature in ["feature-poweroff", "feature-reboot"] {
            assert_eq!(bed.store.text(&control(feature)), Some("1"), "{feature}");
        }
        bed.store.write(&control("shutdown"), word);
        bed.settle();
        assert_eq!(bed.kernel.shutdown_requested, expected, "{word}");
        if expected.is_some() {
            assert_eq!(bed.store.text(&control("shutdown")), Some(""), "{word}");
        }
    }
}

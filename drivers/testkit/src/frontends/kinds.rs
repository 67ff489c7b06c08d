//! The frontends, one by one.

use super::Asked::{GivesUp, Never, Unmounts, UsesOn};
use super::Kind;
use super::Op::{Await, AwaitAtMost, AwaitFor, AwaitOrGiveUp, Rings, State};

const X86_64: (&str, &str) = ("protocol", "x86_64-abi");
const PERSISTENT: (&str, &str) = ("feature-persistent", "1");
const ONE: (&[&str], &[&str]) = (&["ring-ref"], &["event-channel"]);

/// From Closed to Initialising, for whoever comes next.
const HAND_OVER: &[super::Op] = &[State(6), State(1)];

/// Linux up to 5.14 with two queues, as in RHEL 7 and 8, Debian 11, Ubuntu 20.04.
pub const LINUX_4: Kind = Kind {
    name: "Linux up to 5.14",
    keys: &[X86_64, PERSISTENT, ("multi-queue-num-queues", "2")],
    refs: &["queue-0/ring-ref", "queue-1/ring-ref"],
    ports: &["queue-0/event-channel", "queue-1/event-channel"],
    connect: &[
        AwaitOrGiveUp(&[2, 4], &[5, 6]),
        Rings(3),
        AwaitOrGiveUp(&[4], &[5, 6]),
        State(4),
    ],
    close: &[State(5), State(6), Await(&[6]), State(1)],
    resume: &[Rings(3), Await(&[4]), State(4)],
    asked: UsesOn(Some(5)),
};

/// Linux 5.15 and later, with one queue.
pub const LINUX_5_15: Kind = Kind {
    name: "Linux 5.15 and later",
    keys: &[X86_64, PERSISTENT],
    refs: ONE.0,
    ports: ONE.1,
    asked: GivesUp,
    ..LINUX_4
};

/// Linux in an HVM guest that starts another kernel by kexec.
pub const LINUX_KEXEC: Kind = Kind {
    name: "Linux kexec",
    close: &[
        State(5),
        AwaitAtMost(&[5], 5_000),
        State(6),
        AwaitAtMost(&[6], 5_000),
        State(1),
        AwaitAtMost(&[2], 5_000),
    ],
    ..LINUX_5_15
};

/// FreeBSD's blkfront.
pub const FREEBSD: Kind = Kind {
    name: "FreeBSD",
    keys: &[X86_64, ("num-ring-pages", "2"), ("ring-page-order", "1")],
    refs: &["ring-ref0", "ring-ref1"],
    ports: ONE.1,
    connect: &[
        Await(&[2, 3, 4]),
        Rings(3),
        AwaitOrGiveUp(&[4], &[5, 6]),
        State(4),
    ],
    close: &[State(5), State(6), State(1)],
    resume: &[State(1), Await(&[2, 3, 4]), Rings(3), Await(&[4]), State(4)],
    asked: UsesOn(None),
};

/// NetBSD's xbd.
pub const NETBSD: Kind = Kind {
    name: "NetBSD",
    keys: &[X86_64],
    refs: ONE.0,
    ports: ONE.1,
    connect: &[Rings(3), Await(&[4]), State(4)],
    close: HAND_OVER,
    resume: &[Rings(3), Await(&[4]), State(4)],
    asked: Unmounts(700),
};

/// OpenBSD's xbf.
pub const OPENBSD: Kind = Kind {
    name: "OpenBSD",
    keys: &[X86_64, ("num-ring-pages", "2"), ("ring-page-order", "1")],
    refs: &["ring-ref0", "ring-ref1"],
    ports: ONE.1,
    connect: &[Rings(3), AwaitFor(&[4], 10_000), State(4)],
    close: HAND_OVER,
    resume: &[],
    asked: Never,
};

const WINDOWS_CONNECT: &[super::Op] = &[
    State(5),
    Await(&[5, 6]),
    State(6),
    Await(&[6]),
    State(1),
    Await(&[2]),
    Rings(3),
    AwaitOrGiveUp(&[4], &[5, 6]),
    State(4),
];

/// The drivers of Windows. They spin with interrupts off while they wait.
pub const WINDOWS: Kind = Kind {
    name: "Windows xenvbd",
    keys: &[
        X86_64,
        ("multi-queue-num-queues", "1"),
        ("target-id", "0"),
        ("feature-surprise-remove", "1"),
        ("feature-online-resize", "1"),
        ("feature-large-sector-size", "1"),
    ],
    refs: ONE.0,
    ports: ONE.1,
    connect: WINDOWS_CONNECT,
    close: &[
        State(5),
        Await(&[5, 6]),
        State(6),
        Await(&[6]),
        State(1),
        Await(&[2]),
    ],
    resume: WINDOWS_CONNECT,
    asked: GivesUp,
};

/// Windows' crash driver, which is strict about Closing.
pub const XENCRSH: Kind = Kind {
    name: "Windows xencrsh",
    connect: &[
        State(5),
        Await(&[5]),
        State(6),
        Await(&[6]),
        State(1),
        Await(&[2]),
        Rings(3),
        AwaitOrGiveUp(&[4], &[5, 6]),
        State(4),
    ],
    resume: &[],
    asked: Never,
    ..WINDOWS
};

/// UEFI firmware; at the end it hands over.
pub const OVMF: Kind = Kind {
    name: "OVMF",
    keys: &[X86_64],
    refs: ONE.0,
    ports: ONE.1,
    connect: &[Rings(4), AwaitOrGiveUp(&[4], &[5, 6, 7, 8])],
    close: &[
        State(5),
        AwaitOrGiveUp(&[5], &[6, 7, 8]),
        State(6),
        AwaitOrGiveUp(&[6], &[7, 8]),
        State(1),
        Await(&[0, 1, 2]),
    ],
    resume: &[],
    asked: Never,
};

/// MiniOS and U-Boot.
pub const MINIOS: Kind = Kind {
    name: "MiniOS, U-Boot",
    close: &[
        State(5),
        Await(&[5, 6, 7, 8]),
        State(6),
        Await(&[6, 7, 8]),
        State(1),
        Await(&[2, 3, 4, 5]),
    ],
    ..OVMF
};

/// Unikraft, without a protocol.
pub const UNIKRAFT: Kind = Kind {
    name: "Unikraft",
    keys: &[("multi-queue-num-queues", "2")],
    refs: &["queue-0/ring-ref", "queue-1/ring-ref"],
    ports: &["queue-0/event-channel", "queue-1/event-channel"],
    ..MINIOS
};

/// GRUB. It takes whatever is not `InitWait` for connected, and uses the ring.
pub const GRUB: Kind = Kind {
    name: "GRUB",
    keys: &[X86_64],
    refs: ONE.0,
    ports: ONE.1,
    connect: &[Rings(3), Await(&[1, 3, 4, 5, 6])],
    close: HAND_OVER,
    resume: &[],
    asked: Never,
};

/// nanos.
pub const NANOS: Kind = Kind {
    name: "nanos",
    keys: &[X86_64],
    refs: ONE.0,
    ports: ONE.1,
    connect: &[Rings(3), Await(&[4]), State(4)],
    close: HAND_OVER,
    resume: &[],
    asked: Unmounts(2_000),
};

/// Each of them.
pub static ALL: [&Kind; 13] = [
    &LINUX_4,
    &LINUX_5_15,
    &LINUX_KEXEC,
    &FREEBSD,
    &NETBSD,
    &OPENBSD,
    &WINDOWS,
    &XENCRSH,
    &OVMF,
    &MINIOS,
    &UNIKRAFT,
    &GRUB,
    &NANOS,
];

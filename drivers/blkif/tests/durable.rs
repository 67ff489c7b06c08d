//! What was answered to a guest as durable is on the medium after a power cut: frontends on a real NVMe
//! queue pair, whose controller loses all that was written and not flushed.

#[path = "common/on_nvme.rs"]
mod on_nvme;

use std::collections::BTreeMap;

use on_nvme::OnNvme;
use proptest::prelude::*;
use spindle_blkif::Config;
use spindle_blkif::abi::{Operation, RspStatus};
use spindle_testkit::blkfront::Blkfront;
use spindle_testkit::nvme::{self, NamespaceConfig};

/// Pages of the disk that are written.
const PLACES: usize = 8;

/// What a request was, and what it makes durable when it is answered with success.
#[derive(Clone, Copy, Debug)]
enum Pending {
    /// A write of this version, durable once answered if it was a barrier.
    Write {
        place: usize,
        version: u64,
        barrier: bool,
    },
    /// All that had been acknowledged when it was pushed.
    Flush,
}

/// Requests by number, each with the versions that had been acknowledged when it was pushed.
type Waiting = BTreeMap<u64, (Pending, [u64; PLACES])>;

/// The disk, a core, and what frontends of the disk know.
struct Machine {
    on: OnNvme,
    fronts: Vec<(Blkfront<'static>, Waiting)>,
    next: u64,
    /// Places with a write on its way: only one at a time, so that versions have an order.
    busy: [bool; PLACES],
    acknowledged: [u64; PLACES],
    durable: [u64; PLACES],
    /// The last version that was ever pushed.
    pushed: [u64; PLACES],
}

impl Machine {
    fn new() -> Self {
        let config = nvme::Config {
            out_of_order: true,
            namespaces: vec![NamespaceConfig::new(1, 8 * PLACES as u64, 9)],
            ..nvme::Config::default()
        };
        let on = OnNvme::new(config, Config::default(), 64);
        assert!(on.volume.write_cache, "or there would be nothing to lose");
        Self {
            on,
            fronts: Vec::new(),
            next: 1,
            busy: [false; PLACES],
            acknowledged: [0; PLACES],
            durable: [0; PLACES],
            pushed: [0; PLACES],
        }
    }

    fn attach(&mut self, persistent: bool) {
        let dom = self.fronts.len() as u16 + 1;
        let front = self.on.attach(dom, 1, persistent, 0);
        self.fronts.push((front, BTreeMap::new()));
    }

    fn write(&mut self, at: usize, place: usize, barrier: bool) {
        let (front, pending) = &mut self.fronts[at];
        if self.busy[place] || front.free() == 0 {
            return;
        }
        let version = self.next;
        self.next += 1;
        (self.busy[place], self.pushed[place]) = (true, version);
        let page = front.page(false);
        page.memory
            .write_bytes(0, &version.to_le_bytes().repeat(512));
        let operation = if barrier {
            Operation::WRITE_BARRIER
        } else {
            Operation::WRITE
        };
        let id = front.push(operation, 8 * place as u64, &[page.segment(0, 7)]);
        front.publish();
        let what = Pending::Write {
            place,
            version,
            barrier,
        };
        pending.insert(id, (what, self.acknowledged));
    }

    fn flush(&mut self, at: usize) {
        let (front, pending) = &mut self.fronts[at];
        if front.free() > 0 {
            let id = front.push(Operation::FLUSH, 0, &[]);
            front.publish();
            pending.insert(id, (Pending::Flush, self.acknowledged));
        }
    }

    /// A turn of the core; then the disk carries out no more than `most` commands.
    fn turn(&mut self, most: usize) {
        self.on.visit(10_000);
        self.on.disk.run_at_most(most);
        for (front, pending) in &mut self.fronts {
            for answer in front.answers() {
                assert_eq!(answer.status, RspStatus::OKAY);
                let (what, before) = pending.remove(&answer.id).unwrap();
                if let Pending::Write {
                    place,
                    version,
                    barrier,
                } = what
                {
                    self.busy[place] = false;
                    self.acknowledged[place] = version;
                    if !barrier {
                        continue;
                    }
                    self.durable[place] = self.durable[place].max(version);
                }
                for (durable, version) in self.durable.iter_mut().zip(before) {
                    *durable = version.max(*durable);
                }
            }
        }
    }

    /// The power fails now.
    fn check(&self) {
        self.on.disk.power_cut();
        let contents = self.on.disk.contents(1);
        for place in 0..PLACES {
            let page = &contents[place * 4096..][..4096];
            let version = u64::from_le_bytes(page[..8].try_into().unwrap());
            assert_eq!(page, version.to_le_bytes().repeat(512), "written in part");
            let allowed = self.durable[place]..=self.pushed[place];
            assert!(
                allowed.contains(&version),
                "{version} in {place}, not {allowed:?}"
            );
        }
    }
}

#[test]
fn a_flush_that_was_answered_has_reached_the_disk() {
    for persistent in [true, false] {
        let mut machine = Machine::new();
        machine.attach(persistent);
        let written = |machine: &Machine| machine.on.disk.contents(1)[..8] != [0; 8];
        machine.write(0, 0, false);
        for _ in 0..4 {
            machine.turn(usize::MAX);
        }
        assert_eq!(machine.acknowledged[0], 1);
        machine.check();
        assert!(!written(&machine), "this disk loses what is not flushed");
        machine.write(0, 0, false);
        for _ in 0..4 {
            machine.turn(usize::MAX);
        }
        machine.flush(0);
        for _ in 0..4 {
            machine.turn(usize::MAX);
        }
        assert_eq!(machine.durable[0], 2, "answered");
        machine.check();
        assert!(written(&machine));
    }
}

#[test]
fn a_barrier_that_was_answered_is_on_the_disk_with_all_before_it() {
    let mut machine = Machine::new();
    machine.attach(true);
    machine.write(0, 0, false);
    for _ in 0..4 {
        machine.turn(usize::MAX);
    }
    machine.write(0, 1, true);
    for _ in 0..10 {
        machine.turn(usize::MAX);
    }
    assert_eq!(machine.durable[..2], [1, 2], "answered");
    machine.check();
}

/// What happens next.
#[derive(Clone, Copy, Debug)]
enum Step {
    Write {
        ring: usize,
        place: usize,
        barrier: bool,
    },
    Flush {
        ring: usize,
    },
    Turn {
        most: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0usize..3, 0..PLACES, 0u8..8).prop_map(|(ring, place, barrier)| Step::Write {
            ring,
            place,
            barrier: barrier == 0,
        }),
        2 => (0usize..3).prop_map(|ring| Step::Flush { ring }),
        5 => prop_oneof![0usize..3, Just(usize::MAX)].prop_map(|most| Step::Turn { most }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 2 } else { 256 }))]

    /// Wherever in the work of three rings the power fails.
    #[test]
    fn nothing_that_was_said_to_be_durable_is_lost(
        steps in prop::collection::vec(step(), 1..80),
        persistent in prop::array::uniform3(any::<bool>()),
    ) {
        let mut machine = Machine::new();
        persistent.into_iter().for_each(|persistent| machine.attach(persistent));
        for step in steps {
            match step {
                Step::Write { ring, place, barrier } => machine.write(ring, place, barrier),
                Step::Flush { ring } => machine.flush(ring),
                Step::Turn { most } => machine.turn(most),
            }
        }
        machine.check();
    }
}

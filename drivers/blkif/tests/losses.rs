//! Flushes of devices whose disk was lost, with what its cache held, and came back.

mod common;

use std::sync::Arc;

use common::{COPIED, PERSISTENT, Rig, assert_all};
use proptest::prelude::*;
use spindle_blkif::abi::{Operation, RspStatus};
use spindle_blkif::{Losses, RingId};
use spindle_testkit::blkfront::{Answer, Blkfront};

const OK: RspStatus = RspStatus::OKAY;
const ERROR: RspStatus = RspStatus::ERROR;

/// One whose disk has a write cache, and is back as soon as it is lost.
fn rig() -> Rig {
    let mut rig = Rig::new();
    rig.volume.write_cache = true;
    rig.disk().back = true;
    rig
}

fn push_flush(front: &mut Blkfront<'_>) -> u64 {
    let id = front.push(Operation::FLUSH, 0, &[]);
    front.publish();
    id
}

#[track_caller]
fn assert_flush(rig: &mut Rig, front: &mut Blkfront<'_>, status: RspStatus) {
    push_flush(front);
    assert_all(&rig.settle(front), 1, status);
}

#[test]
fn a_flush_that_another_answers_reports_a_loss_of_its_own_device() {
    // Three devices of one guest, whose flushes are in one lane.
    let mut rig = rig();
    let [mut first, mut second, mut third] = [(); 3].map(|()| rig.attach(1, PERSISTENT).1);
    rig.core.fail_disk(0);
    assert_flush(&mut rig, &mut first, ERROR);
    assert_flush(&mut rig, &mut second, ERROR);
    rig.disk().hold = true;
    for front in [&mut first, &mut second, &mut third] {
        push_flush(front);
        rig.core.visit(0);
    }
    rig.disk().submitted.clear();
    rig.disk().hold = false;
    assert_all(&rig.settle(&mut first), 1, OK);
    assert_all(&rig.settle(&mut second), 1, OK);
    assert_all(&rig.settle(&mut third), 1, ERROR);
    assert_eq!(rig.disk().submitted.len(), 1, "one flush for two");
    assert_flush(&mut rig, &mut third, OK);
}

#[test]
fn a_flush_that_covers_others_reports_a_loss_of_its_own_device_alone() {
    let mut rig = rig();
    let (_, mut first) = rig.attach(1, COPIED);
    rig.core.fail_disk(0);
    // It has never seen that disk before, and has lost nothing with it.
    let (_, mut second) = rig.attach(1, COPIED);
    rig.disk().hold = true;
    push_flush(&mut second);
    rig.core.visit(0);
    push_flush(&mut first);
    push_flush(&mut second);
    rig.core.visit(0);
    rig.disk().hold = false;
    assert_all(&rig.settle(&mut second), 2, OK);
    assert_all(&rig.settle(&mut first), 1, ERROR);
    assert_flush(&mut rig, &mut first, OK);
}

#[test]
fn a_device_reports_a_loss_once_by_whichever_ring_and_also_by_a_new_one() {
    let mut rig = rig();
    for reconnected in [false, true] {
        rig.losses = Some(Arc::default());
        let (one, mut first) = rig.attach(1, PERSISTENT);
        let (other, mut second) = rig.attach(1, PERSISTENT);
        rig.core.fail_disk(0);
        if reconnected {
            rig.detach(other);
            second = rig.attach(1, PERSISTENT).1;
        }
        assert_flush(&mut rig, &mut second, ERROR);
        assert_flush(&mut rig, &mut first, OK);
        assert_flush(&mut rig, &mut second, OK);
        rig.detach(one);
    }
}

#[test]
fn flushes_that_were_sent_before_the_first_could_be_seen_to_fail_fail_with_it() {
    let mut rig = rig();
    rig.losses = Some(Arc::default());
    let (_, mut first) = rig.attach(1, PERSISTENT);
    let (_, mut second) = rig.attach(1, PERSISTENT);
    rig.core.fail_disk(0);
    for _ in 0..3 {
        push_flush(&mut first);
        push_flush(&mut second);
    }
    assert_all(&rig.settle(&mut first), 3, ERROR);
    assert_all(&rig.settle(&mut second), 3, ERROR);
    assert_flush(&mut rig, &mut first, OK);
}

#[test]
fn a_barrier_reports_a_loss_as_well_and_no_data_of_it_is_written() {
    let mut rig = rig();
    let (_, mut front) = rig.attach(1, PERSISTENT);
    let page = front.page(false);
    let mut barrier = |rig: &mut Rig, status| {
        rig.disk().submitted.clear();
        front.push(Operation::WRITE_BARRIER, 8, &[page.segment(0, 7)]);
        front.publish();
        assert_all(&rig.settle(&mut front), 1, status);
        rig.disk().submitted.len()
    };
    rig.core.fail_disk(0);
    assert_eq!(barrier(&mut rig, ERROR), 1);
    assert_eq!(barrier(&mut rig, OK), 2);
}

/// Devices 0 and 1 are one guest's.
const DEVICES: usize = 3;
/// Rings of each.
const RINGS: usize = 2;

#[derive(Clone, Copy, Debug)]
enum Step {
    Flush { device: usize, ring: usize },
    Visit,
    Hold(bool),
    Lose,
    Reconnect { device: usize, ring: usize },
}

fn step() -> impl Strategy<Value = Step> {
    let at = || (0..DEVICES, 0..RINGS);
    prop_oneof![
        6 => at().prop_map(|(device, ring)| Step::Flush { device, ring }),
        6 => Just(Step::Visit),
        3 => any::<bool>().prop_map(Step::Hold),
        1 => Just(Step::Lose),
        1 => at().prop_map(|(device, ring)| Step::Reconnect { device, ring }),
    ]
}

/// A flush on its way, and what its guest knew when it was sent.
struct Sent {
    id: u64,
    known: u32,
}

/// A device, its rings, and what its guest knows.
struct Device {
    losses: Arc<Losses>,
    rings: Vec<(RingId, Blkfront<'static>, Vec<Sent>)>,
    /// Losses that a flush has failed for.
    known: u32,
}

struct Machine {
    rig: Rig,
    devices: Vec<Device>,
    lost: u32,
}

impl Machine {
    fn new() -> Self {
        let mut machine = Self {
            rig: rig(),
            devices: Vec::new(),
            lost: 0,
        };
        for device in 0..DEVICES {
            machine.devices.push(Device {
                losses: Arc::default(),
                rings: Vec::new(),
                known: 0,
            });
            for _ in 0..RINGS {
                machine.attach(device);
            }
        }
        machine
    }

    fn attach(&mut self, device: usize) {
        let Device { losses, rings, .. } = &mut self.devices[device];
        self.rig.losses = Some(Arc::clone(losses));
        let (ring, front) = self.rig.attach(1 + (device / 2) as u16, COPIED);
        rings.push((ring, front, Vec::new()));
    }

    fn flush(&mut self, device: usize, ring: usize) {
        let device = &mut self.devices[device];
        let (_, front, sent) = &mut device.rings[ring];
        if front.free() > 0 {
            let (id, known) = (push_flush(front), device.known);
            sent.push(Sent { id, known });
        }
    }

    /// Takes note of what was answered so far.
    fn hear(&mut self) {
        for device in &mut self.devices {
            let mut well = false;
            for (_, front, sent) in &mut device.rings {
                for Answer { id, status } in front.answers() {
                    let at = sent.iter().position(|sent| sent.id == id).unwrap();
                    let sent = sent.remove(at);
                    if status == OK {
                        well = true;
                    } else {
                        assert!(sent.known < self.lost, "a loss was reported again");
                        device.known = self.lost;
                    }
                }
            }
            assert!(
                !well || device.known == self.lost,
                "a loss was not reported"
            );
        }
    }

    fn visit(&mut self) {
        self.rig.core.visit(0);
        self.hear();
    }

    fn settle(&mut self) {
        self.rig.disk().hold = false;
        while !self.rig.core.visit(0).is_idle() {}
        self.hear();
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Flush { device, ring } => self.flush(device, ring),
            Step::Visit => self.visit(),
            Step::Hold(hold) => self.rig.disk().hold = hold,
            Step::Lose => {
                // What fails with the disk has nothing to do with what its cache has lost.
                self.settle();
                self.rig.core.fail_disk(0);
                // As control does, for devices without rings.
                self.devices.iter().for_each(|device| device.losses.note());
                self.lost += 1;
            }
            Step::Reconnect { device, ring } => {
                self.settle();
                let (ring, ..) = self.devices[device].rings.remove(ring);
                self.rig.detach(ring);
                self.attach(device);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 2 } else { 256 }))]

    /// Whatever flushes are on their way, together or one after the other.
    #[test]
    fn each_device_hears_of_each_loss_once(steps in prop::collection::vec(step(), 1..120)) {
        let mut machine = Machine::new();
        steps.into_iter().for_each(|step| machine.step(step));
        machine.settle();
        for device in 0..DEVICES {
            for ring in 0..RINGS {
                machine.flush(device, ring);
                machine.settle();
            }
            prop_assert_eq!(machine.devices[device].known, machine.lost);
        }
    }
}

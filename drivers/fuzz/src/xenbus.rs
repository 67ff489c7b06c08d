//! A toolstack and a frontend that do anything, beside a guest that only wants to be served.

use arbitrary::{Arbitrary, Unstructured};
use spindle_testkit::frontends::{ALL, Frontend, Kind, Status};
use spindle_testkit::xenbus::{Bed, VBD, id};
use spindle_testkit::xenstored::Vbd;

use crate::steps;

/// The guest that must not be harmed.
const GOOD: Vbd = Vbd {
    frontend: VBD.frontend + 1,
    ..VBD
};

#[derive(Arbitrary, Debug)]
enum Step<'a> {
    Attach,
    WrongTarget,
    Detach,
    Destroy,
    RemoveBackend,
    RemoveFrontend,
    Rings,
    State(u8),
    Front(u8, Value<'a>),
    Back(u8, Value<'a>),
    Slow(bool),
    Conflicts(u8),
    Chunk(u16),
    Event(&'a [u8], &'a [u8]),
    Breathe(u8),
    Pass(u16),
    /// Other rings under a connection, as after a suspend.
    Resume(u8),
    Resized(u16),
    /// Nodes that may be added, watches there may be, and what is refused.
    Room(u8),
    Watches(u8),
    Refuse(bool, u8),
}

#[derive(Arbitrary, Debug)]
enum Value<'a> {
    Small(u8),
    Any(u32),
    Bytes(&'a [u8]),
    Gone,
}

/// What a frontend says.
const FRONT: [&str; 14] = [
    "state",
    "ring-ref",
    "ring-ref0",
    "ring-ref1",
    "event-channel",
    "protocol",
    "feature-persistent",
    "multi-queue-num-queues",
    "ring-page-order",
    "queue-0/ring-ref",
    "queue-0/event-channel",
    "queue-1/ring-ref",
    "queue-1/event-channel",
    "backend",
];

/// What a toolstack says.
const BACK: [&str; 9] = [
    "state",
    "online",
    "params",
    "mode",
    "frontend",
    "frontend-id",
    "discard-enable",
    "sectors",
    "x",
];

fn put(bed: &mut Bed, directory: &str, path: &str, value: &Value<'_>) {
    if bed.store.read(directory).is_none() {
        return;
    }
    match value {
        Value::Small(number) => bed.store.write(path, (number % 12).to_string()),
        Value::Any(number) => bed.store.write(path, number.to_string()),
        Value::Bytes(bytes) => bed.store.write(path, &bytes[..bytes.len().min(64)]),
        Value::Gone => bed.store.remove(path),
    }
}

/// Runs the target.
///
/// # Panics
/// If something does not hold that must.
pub fn run(data: &[u8]) {
    let mut bed = Bed::new();
    bed.connect(GOOD);
    let mut input = Unstructured::new(data);
    for (_, step) in steps(&mut input, 80) {
        carry_out(&mut bed, &step);
    }
    bed.kernel.slow = false;
    bed.store.force_conflicts(0);
    bed.store.set_chunk(usize::MAX);
    bed.store.set_quota(1000);
    bed.store.set_watch_quota(128);
    for key in BACK {
        bed.store.fail_writes(&VBD.back(key), None);
    }
    VBD.destroy(&mut bed.store);
    bed.run(8000);
    let connected = bed.kernel.connections.keys().copied().collect::<Vec<_>>();
    assert_eq!(connected, [id(GOOD)]);
    assert_eq!(GOOD.back_state(&bed.store), 4);
    // Without `state`, `frontend` and the like a directory is no device of ours; the toolstack
    // takes it away itself.
    bed.store.remove(&VBD.back_dir());
    GOOD.destroy(&mut bed.store);
    bed.run(8000);
    bed.assert_clean();
    let kind = ALL[data.iter().fold(0, |sum, byte| sum + usize::from(*byte)) % ALL.len()];
    connects(&mut bed, kind);
}

/// One of the field's frontends is connected, whatever was there before it.
fn connects(bed: &mut Bed, kind: &'static Kind) {
    bed.attach(VBD);
    bed.run(600);
    let mut front = Frontend::boot(kind, VBD, 8);
    for _ in 0..100 {
        bed.run(10);
        front.step(&mut bed.store, bed.now);
    }
    assert_eq!(front.status(), Status::Connected, "{}", kind.name);
    assert_eq!(VBD.back_state(&bed.store), 4, "{}", kind.name);
}

fn carry_out(bed: &mut Bed, step: &Step<'_>) {
    let there = bed.store.read(&VBD.back_dir()).is_some();
    let store = &mut bed.store;
    match step {
        Step::Attach if !there => bed.attach(VBD),
        Step::WrongTarget if !there => VBD.attach(store, "nope", "w"),
        Step::Attach | Step::WrongTarget => {}
        Step::Detach => VBD.detach(store),
        Step::Destroy => VBD.destroy(store),
        Step::RemoveBackend => store.remove(&VBD.back_dir()),
        Step::RemoveFrontend => store.remove(&VBD.front_dir()),
        Step::Rings => VBD.front_initialise(store),
        Step::State(state) => VBD.set_front_state(store, (state % 9).into()),
        Step::Front(leaf, value) => {
            let path = VBD.front(FRONT[usize::from(*leaf) % FRONT.len()]);
            put(bed, &VBD.front_dir(), &path, value);
        }
        Step::Back(leaf, value) => {
            let path = VBD.back(BACK[usize::from(*leaf) % BACK.len()]);
            put(bed, &VBD.back_dir(), &path, value);
        }
        Step::Slow(slow) => bed.kernel.slow = *slow,
        Step::Conflicts(count) => store.force_conflicts((count % 24).into()),
        Step::Chunk(bytes) => store.set_chunk(usize::from(*bytes).max(1)),
        Step::Event(path, token) => {
            let part = |bytes: &[u8]| bytes[..bytes.len().min(200)].to_vec();
            store.inject_event(&part(path), &part(token));
        }
        Step::Breathe(steps) => bed.breathe((steps % 32).into()),
        Step::Pass(ms) => bed.run((ms % 2000).into()),
        Step::Resume(ring) => {
            let path = VBD.front("ring-ref");
            put(bed, &VBD.front_dir(), &path, &Value::Small(*ring));
            VBD.set_front_state(&mut bed.store, 3);
        }
        Step::Resized(sectors) => bed.backend.resized(id(VBD), (*sectors).into()),
        Step::Room(nodes) => store.set_quota(store.owned() + usize::from(nodes % 64)),
        Step::Watches(count) => store.set_watch_quota(usize::from(count % 8)),
        Step::Refuse(on, leaf) => {
            let path = VBD.back(BACK[usize::from(*leaf) % BACK.len()]);
            store.fail_writes(&path, on.then_some("ENOSPC"));
        }
    }
}

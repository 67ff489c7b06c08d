//! What is recorded of rings is published for `spindlectl trace`, also what was recorded before a death.

use spindle_simulate::world::{Setup, World};
use spindle_status::trace::{TraceEvent, kind};

/// What is published of a vCPU's events.
fn traced(world: &World, vcpu: usize) -> Vec<TraceEvent> {
    let line = world
        .published(&format!("trace/{vcpu}"))
        .unwrap_or_default();
    let events = line.split(' ').filter(|word| !word.is_empty());
    events
        .map(|word| TraceEvent::parse(word).expect(word))
        .collect()
}

#[test]
fn events_are_published_and_outlive_a_death() {
    for cores in [0, 1] {
        let setup = Setup {
            cores,
            ..Setup::default()
        };
        let mut world = World::new(setup, |_, disks| disks.add_ram("ram0", 1 << 20));
        let guest = world.attach(5, 51712, "ram0", "w");
        world.connect(guest, 1, 1);
        world.guests[guest].write(0, 1 << 40, 1);
        world.pass(6000);
        let kinds = |world: &World| {
            let events = traced(world, cores);
            let is_it = |event: &TraceEvent| (event.guest, event.device) == (5, 51712);
            assert!(events.iter().all(is_it), "{events:?}");
            assert!(events.is_sorted_by_key(|event| event.at_ns), "{events:?}");
            events.iter().map(|event| event.kind).collect::<Vec<_>>()
        };
        assert_eq!(kinds(&world), [kind::ATTACHED, kind::REFUSED]);
        assert_eq!(world.guests[guest].take_answers(0).len(), 1);
        world.die();
        world.pass(6000);
        assert_eq!(
            kinds(&world),
            [kind::ATTACHED, kind::REFUSED, kind::ATTACHED]
        );
        let writes = |world: &World| {
            let node = format!("/local/domain/3/data/spindle/trace/{cores}");
            world.store.writes(&node)
        };
        // Nothing is published anew that has not changed.
        let before = writes(&world);
        world.pass(20_000);
        assert_eq!(writes(&world), before);
    }
}

//! A frontend that sends events without requests: it costs some turns, and nobody else their answers.

use spindle_simulate::world::{MS, SECOND, Setup, World};

/// The most turns that 10,000 events within a second may cost: a nap lasts a millisecond.
const MOST: usize = 3000;

#[test]
fn events_without_requests_cost_no_more_than_a_turn_each_millisecond() {
    for cores in [0, 1] {
        let setup = Setup {
            cores,
            ..Setup::default()
        };
        let mut world = World::new(setup, |_, disks| disks.add_ram("ram0", 1 << 20));
        let noisy = world.attach(5, 51712, "ram0", "r");
        world.connect(noisy, 1, 1);
        let quiet = world.attach(6, 51712, "ram0", "r");
        world.connect(quiet, 1, 1);
        let vbd = world.guests[noisy].vbd;
        let port = world.store.text(&vbd.front("event-channel"));
        let port: u32 = port.unwrap().parse().unwrap();
        let domain = world.guests[noisy].domain();
        let turns = |world: &World| world.control_turns + world.machine.turns(0);
        world.pass(5000);
        let (start, before) = (world.now(), turns(&world));
        while world.now() < start + SECOND {
            world.machine.notify_from(domain, port);
            assert_eq!(world.run_until(MS / 10, |_| false), None);
        }
        let turns = turns(&world) - before;
        assert!(turns < MOST, "{cores} cores: {turns} turns in a second");
        // Another guest's events are found all the same: when a nap ends.
        for _ in 0..20 {
            world.machine.notify_from(domain, port);
            let before = world.now();
            let (id, _page) = world.guests[quiet].read(0, 0);
            world.answer(quiet, 0, id);
            let took = world.now() - before;
            assert!(took < 5 * MS, "{cores} cores: {took} ns");
        }
        // And an order is carried out meanwhile.
        let before = world.now();
        world.machine.notify_from(domain, port);
        world.detach(quiet);
        assert!(world.now() - before < 2 * SECOND);
        world.detach(noisy);
        world.assert_nothing_left();
    }
}

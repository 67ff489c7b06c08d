//! Discards of guests that may not discard, and do: what is not offered is refused, and their data stays.

use spindle_blkif::abi::RspStatus;
use spindle_simulate::world::World;

/// `discard-enable=0` is how a toolstack forbids it (xl-disk-configuration(5)).
#[test]
fn who_may_not_discard_is_refused_and_keeps_what_is_there() {
    for target in ["nvme0n1", "vda", "ram0"] {
        let (mut world, _) = World::with_all_disks(2);
        let writer = world.attach(5, 51712, target, "w");
        let vbd = world.guests[writer].vbd;
        world.poke(|store| store.write(&vbd.back("discard-enable"), "0"));
        world.connect(writer, 1, 1);
        world.write(writer, 0, 0, 1);
        let id = world.guests[writer].discard(0, 0, 8);
        assert_eq!(
            world.answer(writer, 0, id),
            RspStatus::EOPNOTSUPP,
            "{target}"
        );
        world.verify(writer, 0, 0, 1);
        world.detach(writer);
        // One that may discard: the same request is carried out.
        let other = world.attach(6, 51712, target, "w");
        world.connect(other, 1, 1);
        let id = world.guests[other].discard(0, 0, 8);
        assert_eq!(world.answer(other, 0, id), RspStatus::OKAY, "{target}");
        world.write(other, 0, 0, 2);
        world.detach(other);
        let reader = world.attach(7, 51712, target, "r");
        world.connect(reader, 1, 1);
        let id = world.guests[reader].discard(0, 0, 8);
        assert_ne!(world.answer(reader, 0, id), RspStatus::OKAY, "{target}");
        world.verify(reader, 0, 0, 2);
    }
}

//! Pages in which a controller says what it is and how it is, as an administrator asks for them.

use spindle_block::DiskOptions;
use spindle_simulate::world::{BACKEND, Setup, World};
use spindle_status::inspect::{self, PAGE, PIECE};
use spindle_testkit::nvme::{Config, FakeNvme, Fault};
use spindle_testkit::virtio::{Config as VirtioConfig, FakeVirtio};

/// A domain with an NVMe controller, a virtio disk and a RAM disk.
fn world(cores: usize) -> (World, FakeNvme) {
    let setup = Setup {
        cores,
        ..Setup::default()
    };
    let mut model = None;
    let world = World::new(setup, |machine, disks| {
        let options = DiskOptions {
            queues: cores.max(1) as u16,
            depth: 16,
            ..DiskOptions::default()
        };
        let controller = FakeNvme::new(machine.bus.clone(), Config::default());
        disks.add_nvme(&controller, 0, options);
        let virtio = FakeVirtio::new(machine.bus.clone(), VirtioConfig::default());
        disks.add_virtio(&virtio, 0, options);
        disks.add_ram("ram0", 1 << 20);
        model = Some(controller);
    });
    (world, model.unwrap())
}

fn give(world: &mut World, word: &str, order: &str) {
    let node = format!("/local/domain/{BACKEND}/data/spindle/inspect");
    let (page, rest) = order.split_once(' ').unwrap();
    let order = format!("{word} {page} {rest}");
    world.poke(|store| store.write(&node, order));
}

/// The answer that begins with this word.
fn answer(world: &mut World, word: &str) -> String {
    world.until("answer", |world| {
        let answer = world.published("inspected");
        answer.is_some_and(|answer| answer.split(' ').next() == Some(word))
    });
    let answer = world.published("inspected").unwrap();
    answer.split_once(' ').unwrap().1.to_string()
}

fn ask(world: &mut World, order: &str) -> String {
    let word = world.now().to_string();
    give(world, &word, order);
    answer(world, &word)
}

/// The bytes of an answer that has some.
fn piece(answer: &str) -> Vec<u8> {
    let digits = answer.strip_prefix("done, ").expect(answer);
    inspect::bytes(digits).expect(answer)
}

#[test]
fn pages_come_in_pieces_while_guests_go_on() {
    for cores in [0, 2] {
        let (mut world, _) = world(cores);
        let guest = world.attach(5, 51712, "nvme0n1", "w");
        world.connect(guest, 1, 1);
        let mut page = Vec::new();
        while page.len() < PAGE {
            let order = format!("id-ctrl nvme0 0 {}", page.len());
            let piece = piece(&ask(&mut world, &order));
            assert_eq!(piece.len(), PIECE.min(PAGE - page.len()));
            page.extend(piece);
            world.write(guest, 0, 8, page.len() as u64);
            world.verify(guest, 0, 8, page.len() as u64);
        }
        assert_eq!(&page[4..24], b"SPINDLE-0001        ");
        assert_eq!(page[512], 0x66);
        let health = piece(&ask(&mut world, "smart nvme0 0 0"));
        assert_eq!(&health[1..6], &[44, 1, 90, 10, 1]);
        // Nothing of what another page has had there.
        assert_eq!(health[512..], [0; PIECE - 512]);
        assert_eq!(piece(&ask(&mut world, "smart nvme0 0 3"))[..3], [90, 10, 1]);
        let namespace = piece(&ask(&mut world, "id-ns nvme0 1 0"));
        assert_eq!(namespace[..8], 2048u64.to_le_bytes());
        let errors = piece(&ask(&mut world, "error-log nvme0 64 0"));
        assert_eq!(errors, [0; PIECE]);
    }
}

#[test]
fn what_cannot_be_had_is_refused_with_the_reason() {
    let (mut world, model) = world(1);
    for (order, reason) in [
        ("smart ram0 0 0", "it is no NVMe controller"),
        ("smart vda 0 0", "it is no NVMe controller"),
        ("smart nvme1 0 0", "there is no such controller"),
        ("smart nvme0n1 0 0", "there is no such controller"),
        ("format nvme0 1 0", "it is no order"),
        ("smart nvme0 0 4096", "it is no order"),
    ] {
        let said = ask(&mut world, order);
        assert_eq!(said, format!("refused: {reason}"), "{order}");
    }
    let said = ask(&mut world, "id-ns nvme0 7 0");
    assert_eq!(said, "refused: status type 0 code 0x0b, do not retry");
    model.arm(Fault::FailAdmin(2, 0x4002));
    let said = ask(&mut world, "smart nvme0 0 0");
    assert_eq!(said, "refused: status type 0 code 0x02, do not retry");
    assert!(ask(&mut world, "smart nvme0 0 0").starts_with("done, "));
}

/// The one who asks gets no answer, and no other notices anything.
#[test]
fn a_controller_that_does_not_answer_is_waited_for_no_longer_than_10_s() {
    let (mut world, model) = world(1);
    let guest = world.attach(5, 51712, "nvme0n1", "w");
    world.connect(guest, 1, 1);
    world.pass(2000);
    model.arm(Fault::SwallowAdmin(2));
    let asked = world.now();
    give(&mut world, "a", "smart nvme0 0 0");
    world.pass(100);
    // Another one asks meanwhile.
    assert_eq!(
        ask(&mut world, "smart nvme0 0 0"),
        "refused: another page is being read"
    );
    world.write(guest, 0, 8, 1);
    world.verify(guest, 0, 8, 1);
    assert_eq!(
        answer(&mut world, "a"),
        "refused: it has not answered within 10 s"
    );
    let took = (world.now() - asked) / 1_000_000;
    assert!((10_000..11_500).contains(&took), "{took} ms");
}

#[test]
fn after_a_reset_the_controller_is_asked_as_soon_as_it_works() {
    let (mut world, model) = world(1);
    model.arm(Fault::SwallowAdmin(2));
    give(&mut world, "a", "smart nvme0 0 0");
    world.pass(11_000);
    model.die();
    let said = ask(&mut world, "id-ctrl nvme0 0 0");
    assert_eq!(&piece(&said)[4..24], b"SPINDLE-0001        ");
}

#[test]
fn a_late_answer_is_not_taken_for_that_to_another_question() {
    let (mut world, model) = world(1);
    model.hold_admin();
    give(&mut world, "a", "smart nvme0 0 0");
    world.pass(11_000);
    give(&mut world, "b", "id-ctrl nvme0 0 0");
    world.pass(100);
    // The health log, which is waited for no longer, and then what is asked for.
    model.run_admin();
    world.pass(100);
    model.run_admin();
    let said = answer(&mut world, "b");
    assert_eq!(&piece(&said)[4..24], b"SPINDLE-0001        ");
}

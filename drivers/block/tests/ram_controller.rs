//! A RAM disk as the control core sees every disk.

use spindle_block::{BlockController, DiskEvents, Op, RamController, RamDisk, RamQueue};
use spindle_hw::DmaAlloc;
use spindle_testkit::mem::FakeBus;
use spindle_testkit::queue::{command, complete, pages};

type Queue<'a> = RamQueue<&'a FakeBus>;

#[test]
fn all_cores_see_the_same_disk_and_nothing_ever_happens_to_it() {
    let bus = FakeBus::new();
    let disk = RamDisk::new(3 << 20, &bus).unwrap();
    let disk = RamController::new("ram7".into(), disk, &bus);
    let mut disk: Box<dyn BlockController<Queue<'_>>> = Box::new(disk);
    assert_eq!(disk.name(), "ram7");
    let volumes = disk.volumes(2);
    let shown: Vec<_> = volumes
        .iter()
        .map(|v| (&*v.name, v.disk, v.sectors))
        .collect();
    assert_eq!(shown, [("ram7", 2, 6144)]);
    let mut queues: Vec<_> = (0..3).map(|_| disk.create_queue().unwrap()).collect();
    let memory = bus.alloc(2).unwrap();
    memory.write_bytes(0, &[0x5a; 4096]);
    let segments = pages(&memory);
    let write = command(Op::Write, 8, &segments[..1]);
    assert_eq!(complete(&mut queues[0], &write), Ok(Ok(())));
    let read = command(Op::Read, 8, &segments[1..]);
    assert_eq!(complete(&mut queues[2], &read), Ok(Ok(())));
    let mut back = [0; 4096];
    memory.read_bytes(4096, &mut back);
    assert!(back == [0x5a; 4096]);
    disk.ask_health();
    assert_eq!(disk.attend(), DiskEvents::default());
    disk.shutdown(queues).unwrap();
}

//! The last value that is in, and the first that is out: of volumes, reads, RAM disks, lists and
//! tables.

use std::time::Duration;

use proptest::prelude::*;
use spindle_block::{
    BlockReader, Blocks, Command, Discard, DiskOptions, DiskQueue, IoError, IoResult, Op, Part,
    RamDisk, RamQueue, ReadError, Segment, SubmitError, Tag, Targets, Unit, Volume, partitions,
};
use spindle_hw::DmaAlloc;
use spindle_testkit::gpt::Gpt;
use spindle_testkit::image::Image;
use spindle_testkit::mem::{FakeBus, FakeClock};
use spindle_testkit::queue::{command, complete, discard};

const MIB: u64 = 1 << 20;

fn volume(name: &str, start: u64, sectors: u64, block_shift: u8) -> Volume {
    Volume {
        name: name.to_string(),
        aliases: Vec::new(),
        disk: 0,
        unit: Unit(0),
        start,
        sectors,
        block_shift,
        physical_block_shift: block_shift,
        read_only: false,
        write_cache: false,
        discard: None,
        description: String::new(),
        map: None,
    }
}

#[test]
fn what_changes_a_disk_is_known() {
    use Op::{Discard, Flush, Read, SecureDiscard, Write, WriteThrough};
    for op in [Write, WriteThrough, Discard, SecureDiscard] {
        assert!(op.writes(), "{op:?}");
    }
    assert!(!Read.writes() && !Flush.writes());
}

#[test]
fn a_command_is_for_the_blocks_of_its_memory_or_for_those_it_names() {
    let segments = [4096, 512, 3584].map(|len| Segment::new(0, len));
    let of = |block_shift, blocks, segments| Command {
        block_shift,
        blocks,
        ..command(Op::Write, 5, segments)
    };
    assert_eq!(of(9, 0, &segments).total_blocks(), 16);
    assert_eq!(of(12, 0, &segments).total_blocks(), 2);
    assert_eq!(of(12, 7, &[]).total_blocks(), 7);
    assert_eq!(of(9, 0, &[]).total_blocks(), 0);
}

#[test]
fn a_disk_is_asked_for_one_queue_unless_more_are_wanted() {
    let options = DiskOptions::default();
    assert_eq!((options.queues, options.depth), (1, 256));
    assert_eq!(options.timeout, Duration::from_secs(30));
}

/// A disk that takes one flush at a time, and says no more of itself than it must.
#[derive(Default)]
struct Least(Option<Tag>);

impl DiskQueue for Least {
    fn submit(&mut self, _: &Command<'_>, tag: Tag) -> Result<(), SubmitError> {
        match self.0.replace(tag) {
            None => Ok(()),
            Some(_) => Err(SubmitError::Full),
        }
    }
    fn commit(&mut self) {}
    fn poll(&mut self, mut done: impl FnMut(Tag, IoResult)) -> usize {
        self.0
            .take()
            .into_iter()
            .map(|tag| done(tag, Ok(())))
            .count()
    }
    fn in_flight(&self) -> usize {
        self.0.iter().count()
    }
    fn fail_all(&mut self, _: impl FnMut(Tag, IoResult)) {}
}

#[test]
fn what_a_disk_does_not_say_of_itself_is_that_it_takes_commands_whole() {
    let mut queue = Least::default();
    assert_eq!(queue.depth(), usize::MAX);
    assert!(!queue.is_working());
    let wanted = discard(Op::Discard, 8, 24);
    assert_eq!(queue.requests(&wanted), Ok(1));
    let budget = spindle_block::Budget {
        commands: 1,
        bytes: 512,
    };
    let whole = Part {
        blocks: 24,
        commands: 1,
    };
    assert_eq!(queue.submit_part(&wanted, 0, budget, Tag(1)), Ok(whole));
    assert_eq!(queue.in_flight(), 1);
    let full = queue.submit_part(&wanted, 0, budget, Tag(2));
    assert_eq!(full, Err(SubmitError::Full));
}

#[test]
fn a_transfer_is_located_if_it_is_whole_blocks_inside_the_volume() {
    let small = volume("a", 100, 20, 9);
    assert_eq!(
        (small.sectors_per_block(), small.extent().read_only),
        (1, false)
    );
    for (sector, count, block) in [
        (0, 1, Some(100)),
        (19, 1, Some(119)),
        (0, 20, Some(100)),
        (19, 2, None),
        (20, 1, None),
        (20, 0, None),
        (0, 0, None),
        (u64::MAX, 1, None),
        (1, u64::MAX, None),
    ] {
        assert_eq!(small.locate(sector, count), block, "{sector}, {count}");
    }
    let large = volume("b", 100, 32, 12);
    assert_eq!(large.sectors_per_block(), 8);
    for (sector, count, block) in [
        (0, 8, Some(100)),
        (24, 8, Some(103)),
        (8, 16, Some(101)),
        (4, 8, None),
        (8, 4, None),
        // Each is half a block, and so is what they have not in common.
        (4, 4, None),
        (32, 8, None),
    ] {
        assert_eq!(large.locate(sector, count), block, "{sector}, {count}");
    }
    let extent = large.extent();
    assert!(extent.are_blocks(0) && extent.are_blocks(8) && !extent.are_blocks(9));
    assert!(!extent.are_blocks(8 | 4));
}

/// A RAM disk of one MiB in which each sector begins with its number.
fn numbered(bus: &FakeBus) -> (RamDisk, RamQueue<&FakeBus>) {
    let disk = RamDisk::new(MIB, bus).unwrap();
    let mut queue = disk.queue(1, bus);
    let page = bus.alloc(1).unwrap();
    let from = [Segment::new(page.bus(), 512)];
    for block in 0..MIB / 512 {
        page.write_bytes(0, &block.to_le_bytes());
        let write = complete(&mut queue, &command(Op::Write, block, &from));
        assert_eq!(write, Ok(Ok(())));
    }
    bus.free(page);
    (disk, queue)
}

#[test]
fn a_reader_reads_up_to_the_last_block_of_its_volume_and_from_its_start() {
    let bus = FakeBus::new();
    let (_, mut queue) = numbered(&bus);
    let part = volume("a", 1000, 100, 9);
    let before = bus.outstanding();
    let clock = FakeClock::new(1);
    let mut reader = BlockReader::new(&mut queue, &part, &clock, &bus, 100).unwrap();
    assert_eq!((reader.block_shift(), reader.count()), (9, 100));
    // More than a page, and not a whole number of them.
    let mut all = vec![0xff; 100 * 512];
    reader.read(0, &mut all).unwrap();
    for (number, sector) in (1000u64..).zip(all.chunks(512)) {
        assert_eq!(sector[..8], number.to_le_bytes());
        assert!(sector[8..].iter().all(|&byte| byte == 0));
    }
    let mut last = [0; 512];
    reader.read(99, &mut last).unwrap();
    assert_eq!(last[..8], 1099u64.to_le_bytes());
    for (first, bytes) in [(100, 512), (99, 1024), (0, 511), (0, 513), (u64::MAX, 512)] {
        let read = reader.read(first, &mut vec![0; bytes]);
        assert_eq!(read, Err(ReadError::Range), "{first}, {bytes}");
    }
    drop(reader);
    assert_eq!(bus.outstanding(), before);
    let large = volume("b", 0, 96, 12);
    let reader = BlockReader::new(&mut queue, &large, &clock, &bus, 100).unwrap();
    assert_eq!((reader.block_shift(), reader.count()), (12, 12));
}

/// A disk that answers at a time.
struct Late {
    at_ns: u64,
    now_ns: u64,
    tag: Option<Tag>,
}

impl DiskQueue for Late {
    fn submit(&mut self, _: &Command<'_>, tag: Tag) -> Result<(), SubmitError> {
        self.tag = Some(tag);
        Ok(())
    }
    fn commit(&mut self) {}
    fn poll(&mut self, mut done: impl FnMut(Tag, IoResult)) -> usize {
        let is_due = self.now_ns >= self.at_ns;
        let tag = self.tag.take_if(|_| is_due);
        tag.into_iter()
            .map(|tag| done(tag, Err(IoError::Medium)))
            .count()
    }
    fn in_flight(&self) -> usize {
        self.tag.iter().count()
    }
    fn tick(&mut self, now_ns: u64) {
        self.now_ns = now_ns;
    }
    fn fail_all(&mut self, _: impl FnMut(Tag, IoResult)) {}
}

#[test]
fn an_answer_is_waited_for_as_long_as_it_was_said_and_no_longer() {
    let part = volume("a", 0, 100, 9);
    for (at_ns, error) in [
        (0, ReadError::Failed(IoError::Medium)),
        (1000, ReadError::Failed(IoError::Medium)),
        (1300, ReadError::TimedOut),
    ] {
        let (bus, clock) = (FakeBus::new(), FakeClock::new(100));
        let mut queue = Late {
            at_ns,
            now_ns: 0,
            tag: None,
        };
        let mut reader = BlockReader::new(&mut queue, &part, &clock, &bus, 1100).unwrap();
        assert_eq!(reader.read(0, &mut [0; 512]), Err(error), "{at_ns}");
        drop(reader);
        assert_eq!(bus.outstanding(), usize::from(error == ReadError::TimedOut));
    }
}

#[test]
fn a_ram_disk_is_whole_mib_and_ends_there() {
    let bus = FakeBus::new();
    for (bytes, mib) in [(1, 1), (MIB, 1), (MIB + 1, 2)] {
        let disk = RamDisk::new(bytes, &bus).unwrap();
        let volume = disk.volume("ram7", 4);
        assert_eq!((volume.sectors, volume.disk), (mib * 2048, 4));
        assert_eq!(volume.name, "ram7");
        assert_eq!(volume.description, format!("RAM disk, {mib} MiB"));
        let secure = Discard {
            granularity: 512,
            alignment: 0,
            secure: true,
        };
        assert_eq!(volume.discard, Some(secure));
    }
    let disk = RamDisk::new(MIB, &bus).unwrap();
    let mut queue = disk.queue(2, &bus);
    assert_eq!(queue.depth(), 2);
    let memory = bus.alloc(1).unwrap();
    let of = |len| [Segment::new(memory.bus(), len)];
    memory.write_bytes(0, &[0x5a; 4096]);
    let last = command(Op::WriteThrough, 2040, &of(4096)).block;
    let (fits, beyond) = (of(4096), of(4096 - 512));
    let write = complete(&mut queue, &command(Op::WriteThrough, last, &fits));
    assert_eq!(write, Ok(Ok(())));
    let write = complete(&mut queue, &command(Op::Write, last + 1, &fits));
    assert_eq!(write, Ok(Err(IoError::Range)));
    memory.zero(0, 4096);
    let read = complete(&mut queue, &command(Op::Read, last + 1, &beyond));
    assert_eq!(read, Ok(Ok(())));
    let mut back = [0; 4096];
    memory.read_bytes(0, &mut back);
    assert!(back[..3584].iter().all(|&byte| byte == 0x5a));
    assert!(back[3584..].iter().all(|&byte| byte == 0));
}

/// A disk `d0` with partitions that have one alias of so many bytes each.
fn family(partitions: u64, alias: usize) -> Targets<u8> {
    let part = |number: u64| Volume {
        aliases: vec!["x".repeat(alias)],
        ..volume(&format!("d0p{number:04}"), number, 1, 9)
    };
    let disk = volume("d0", 0, 5000, 9);
    Targets::new([(disk, (1..=partitions).map(part).collect())])
}

fn list(targets: &Targets<u8>) -> Vec<String> {
    targets.lists().next().unwrap().2
}

/// What a page has room for, beside a line that says how many volumes are left out.
const PAGE: usize = 1792 - 32;

#[test]
fn a_list_shows_aliases_as_long_as_a_page_has_room_for_the_line() {
    // "d0 5000 512 w -", "d0p0001 1 512 w - " and the alias, with the end of a line between.
    let pages = |alias: usize| list(&family(1, alias)).len();
    assert_eq!((pages(PAGE - 34), pages(PAGE - 33)), (1, 2));
    let shown = |alias: usize| list(&family(1, alias)).concat().contains('x');
    assert!(shown(PAGE - 18));
    assert!(!shown(PAGE - 17));
}

#[test]
fn a_list_is_on_as_many_pages_as_may_be_and_says_how_many_are_left() {
    // Lines of 17 bytes, with the end of a line between: the disk's, which is shorter, counts for one.
    let most = 32 * ((PAGE + 1) / 18);
    for (partitions, shown) in [
        (60, 60),
        (97, 97),
        (most - 1, most - 1),
        (most, most - 1),
        (9999, most - 1),
    ] {
        let pages = list(&family(partitions as u64, 1700));
        assert_eq!(
            pages.len(),
            (shown + 1).div_ceil(most / 32).min(32),
            "{partitions}"
        );
        let text = pages.join("\n");
        let lines: Vec<&str> = text.lines().collect();
        let of_partitions = lines.iter().filter(|line| line.starts_with("d0p")).count();
        assert_eq!(of_partitions, shown, "of {partitions}");
        let left = partitions - shown;
        let last = lines.last().unwrap();
        if left == 0 {
            assert!(!last.starts_with("..."));
        } else {
            assert_eq!(*last, format!("... {left} volumes more"));
        }
    }
}

/// The numbers of the partitions that are served, and what is said of the others.
fn served(gpt: &Gpt) -> (Vec<u32>, Vec<String>) {
    let disk = volume(
        "nvme0n1",
        0,
        gpt.blocks << (gpt.block_shift - 9),
        gpt.block_shift,
    );
    let mut image = Image {
        bytes: gpt.image(),
        block_shift: gpt.block_shift,
    };
    let table = partitions(&disk, &mut image).unwrap();
    let number = |volume: &Volume| volume.name.trim_start_matches("nvme0n1p").parse().unwrap();
    (table.partitions.iter().map(number).collect(), table.notes)
}

#[test]
fn of_refused_partitions_the_first_eight_are_named() {
    let with = |count: u8| {
        let gpt = (1..=count).fold(Gpt::new(9, 200), |gpt, number| gpt.with(number, 1, 1, ""));
        served(&gpt.sealed()).1.join("")
    };
    assert!(with(8).ends_with(": 1, 2, 3, 4, 5, 6, 7, 8"));
    assert!(with(9).ends_with(": 1, 2, 3, 4, 5, 6, 7, 8 ..."));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Against each partition's blocks, one by one.
    #[test]
    #[cfg_attr(miri, ignore = "checksums over too many bytes")]
    fn partitions_are_served_that_have_blocks_of_their_own(
        places in prop::collection::vec((30u64..70, 0u64..12), 1..8),
    ) {
        // Blocks 34 to 65 can be used.
        let gpt = Gpt::new(9, 99);
        let mut gpt = Gpt { blocks: 99, ..gpt };
        for (number, &(first, more)) in (1..).zip(&places) {
            gpt = gpt.with(number, first, first + more, "");
        }
        let usable = |&(first, more): &(u64, u64)| first >= 34 && first + more <= 65;
        let share = |one: &(u64, u64), other: &(u64, u64)| {
            (one.0..=one.0 + one.1).any(|block| (other.0..=other.0 + other.1).contains(&block))
        };
        let expected: Vec<u32> = (1..)
            .zip(&places)
            .filter(|(number, place)| {
                let others = (1..).zip(&places).filter(|(other, _)| other != number);
                usable(place)
                    && others
                        .filter(|(_, other)| usable(other))
                        .all(|(_, other)| !share(place, other))
            })
            .map(|(number, _)| number)
            .collect();
        prop_assert_eq!(served(&gpt.sealed()).0, expected);
    }

    /// The first block of a partition that a discard may begin at is one of the disk's.
    #[test]
    #[cfg_attr(miri, ignore = "checksums over too many bytes")]
    fn discards_of_partitions_begin_where_those_of_the_disk_do(
        granularity in (0u32..7).prop_map(|shift| 512 << shift),
        alignment in 0u32..10,
        first in 34u64..66,
    ) {
        let gpt = Gpt::new(9, 99).with(1, first, 65, "").sealed();
        let mut disk = volume("nvme0n1", 0, 99, 9);
        let alignment = alignment * 512;
        disk.discard = Some(Discard { granularity, alignment, secure: false });
        let mut image = Image { bytes: gpt.image(), block_shift: 9 };
        let found = partitions(&disk, &mut image).unwrap();
        let of_part = found.partitions[0].discard.unwrap();
        prop_assert!(of_part.alignment < granularity);
        let at = first * 512 + u64::from(of_part.alignment);
        let (at, begin) = (at + u64::from(granularity) * 10, u64::from(alignment));
        prop_assert_eq!((at - begin) % u64::from(granularity), 0);
    }
}

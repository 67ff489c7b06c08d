//! Partition tables, good and bad, and how they are read from a disk.

use spindle_block::{
    BlockReader, Blocks, Command, Discard, DiskQueue, IoError, IoResult, Op, RamDisk, ReadError,
    SubmitError, Table, TableReader, TableStep, Tag, Unit, Volume, partitions,
};
use spindle_hw::DmaAlloc;
use spindle_testkit::gpt::Gpt;
use spindle_testkit::gpt::gpt_disk_types::{LbaLe, U32Le};
use spindle_testkit::image::Image;
use spindle_testkit::mem::{FakeBus, FakeClock};
use spindle_testkit::queue::{command, complete, pages};

/// Blocks of a test disk.
const BLOCKS: u64 = 200;

fn image(bytes: Vec<u8>, block_shift: u8) -> Image {
    Image { bytes, block_shift }
}

fn disk(name: &str, shift: u8, blocks: u64) -> Volume {
    Volume {
        name: name.to_string(),
        aliases: vec!["nvme-SERIAL-n1".to_string()],
        disk: 3,
        unit: Unit(7),
        start: 0,
        sectors: blocks << (shift - 9),
        block_shift: shift,
        physical_block_shift: 12,
        read_only: false,
        write_cache: true,
        discard: None,
        description: String::new(),
        map: None,
    }
}

fn table(gpt: &Gpt) -> Table {
    let shift = gpt.block_shift;
    let disk = disk("nvme0n1", shift, gpt.blocks);
    partitions(&disk, &mut image(gpt.image(), shift)).unwrap()
}

fn good() -> Gpt {
    Gpt::new(9, BLOCKS)
        .with(1, 40, 59, "boot")
        .with(3, 60, 99, "my data")
        .sealed()
}

fn names(table: &Table) -> Vec<&str> {
    table.partitions.iter().map(|p| p.name.as_str()).collect()
}

fn notes(table: &Table) -> String {
    table.notes.join("\n")
}

#[test]
fn partitions_are_volumes_of_their_own() {
    let table = table(&good());
    assert_eq!(table.notes, Vec::<String>::new());
    assert_eq!(names(&table), ["nvme0n1p1", "nvme0n1p3"]);
    let third = &table.partitions[1];
    assert_eq!((third.disk, third.unit), (3, Unit(7)));
    assert_eq!((third.start, third.sectors), (60, 40));
    assert_eq!(
        third.aliases,
        [
            "nvme-SERIAL-n1-part3",
            "PARTUUID=03030303-0303-0303-0303-030303030303",
            "PARTLABEL=my data"
        ]
    );
    assert_eq!(third.locate(39, 1), Some(99));
    assert_eq!(third.locate(39, 2), None);
}

#[test]
fn a_table_made_by_sfdisk_is_read() {
    let parts = include_bytes!("sfdisk.gpt");
    let mut bytes = vec![0; 4 << 20];
    let (end, block) = (bytes.len(), 512);
    bytes[..3 * block].copy_from_slice(&parts[..3 * block]);
    bytes[end - block..].copy_from_slice(&parts[3 * block..]);
    bytes[end - 33 * block..end - 32 * block].copy_from_slice(&parts[2 * block..3 * block]);
    let table = partitions(&disk("vda", 9, 8192), &mut image(bytes, 9)).unwrap();
    assert_eq!(table.notes, Vec::<String>::new());
    assert_eq!(names(&table), ["vda1", "vda2"]);
    let [first, second] = &table.partitions[..] else {
        panic!("two of them")
    };
    assert_eq!((first.start, first.sectors), (2048, 2048));
    assert_eq!((second.start, second.sectors), (4096, 1024));
    assert_eq!(
        first.aliases[1],
        "PARTUUID=11111111-2222-3333-4444-5555aaaabbbb"
    );
    assert_eq!(second.aliases[2], "PARTLABEL=my data ä");
}

#[test]
#[cfg_attr(miri, ignore = "checksums over too many bytes")]
fn of_a_table_made_large_only_so_many_partitions_are_taken() {
    const ENTRIES: u32 = 1024;
    let mut gpt = Gpt::new(9, 2048);
    for header in [&mut gpt.primary, &mut gpt.backup] {
        header.number_of_partition_entries = U32Le::from_u32(ENTRIES);
        header.first_usable_lba = LbaLe::from_u64(258);
        header.last_usable_lba = LbaLe::from_u64(1790);
    }
    gpt.backup.partition_entry_lba = LbaLe::from_u64(1791);
    let one = gpt.clone().with(1, 0, 0, "").entries[0];
    gpt.entries = vec![one; ENTRIES as usize];
    for (block, entry) in (300..).zip(&mut gpt.entries) {
        entry.starting_lba = LbaLe::from_u64(block);
        entry.ending_lba = LbaLe::from_u64(block);
    }
    let mut table = table(&gpt.sealed());
    assert_eq!(
        notes(&table),
        "only the first 128 of 1024 partitions are taken"
    );
    assert_eq!(table.partitions.len(), 128);
    assert_eq!(table.partitions[127].name, "nvme0n1p128");
    table.limit(128);
    assert_eq!(table.notes.len(), 1);
    table.limit(3);
    assert_eq!(names(&table), ["nvme0n1p1", "nvme0n1p2", "nvme0n1p3"]);
    assert!(notes(&table).contains("first 3 of 128"));
}

#[test]
fn a_disk_of_4096_byte_blocks_counts_in_its_blocks() {
    let gpt = Gpt::new(12, BLOCKS).with(1, 40, 59, "").sealed();
    let table = table(&gpt);
    assert_eq!(table.notes, Vec::<String>::new());
    let first = &table.partitions[0];
    assert_eq!((first.start, first.sectors), (40, 160));
    assert_eq!(first.locate(8, 8), Some(41));
    assert_eq!(first.aliases.len(), 2, "no label, no name by it");
}

/// As a guest writes it that is shown the disk with 512-byte sectors: its partitions may begin and
/// end anywhere in a block.
#[test]
fn a_table_in_sectors_is_none_on_a_disk_of_4096_byte_blocks() {
    let gpt = Gpt::new(9, BLOCKS * 8).with(1, 43, 61, "boot").sealed();
    let disk = disk("nvme0n1", 12, BLOCKS);
    let table = partitions(&disk, &mut image(gpt.image(), 12)).unwrap();
    assert_eq!(names(&table), Vec::<&str>::new());
    assert!(notes(&table).contains("no partitions"), "{table:?}");
}

#[test]
#[cfg_attr(miri, ignore = "checksums over too many bytes")]
fn a_damaged_table_is_replaced_by_its_backup_and_a_damaged_backup_is_told() {
    let damage: [fn(&mut Gpt); 6] = [
        |gpt| gpt.primary.signature = Default::default(),
        |gpt| gpt.primary.header_crc32 = Default::default(),
        |gpt| gpt.primary.my_lba = LbaLe::from_u64(2),
        |gpt| gpt.primary.partition_entry_array_crc32 = Default::default(),
        |gpt| gpt.primary.partition_entry_lba = LbaLe::from_u64(u64::MAX),
        |gpt| gpt.primary.number_of_partition_entries = U32Le::from_u32(u32::MAX),
    ];
    for (case, damage) in damage.into_iter().enumerate() {
        let mut gpt = good();
        damage(&mut gpt);
        if case == 0 {
            gpt.primary.signature.0.set(1);
        } else if case != 1 {
            gpt.primary.update_header_crc32();
        }
        let with_backup = table(&gpt);
        assert_eq!(names(&with_backup), ["nvme0n1p1", "nvme0n1p3"], "{case}");
        assert!(notes(&with_backup).contains("its backup is used"), "{case}");
        // Without the backup there is nothing left to trust.
        gpt.backup.header_crc32 = Default::default();
        let without = table(&gpt);
        assert_eq!(names(&without), [""; 0], "{case}");
        assert!(notes(&without).contains("no partitions"), "{case}");
    }
    let mut gpt = good();
    gpt.backup.header_crc32 = Default::default();
    let table = table(&gpt);
    assert_eq!(names(&table), ["nvme0n1p1", "nvme0n1p3"]);
    assert!(notes(&table).contains("the backup GPT in block 199 is damaged"));
}

/// A disk with blocks that cannot be read.
struct Worn(Image, Vec<u64>);

impl Blocks for Worn {
    fn block_shift(&self) -> u8 {
        self.0.block_shift()
    }

    fn count(&self) -> u64 {
        self.0.count()
    }

    fn read(&mut self, first: u64, out: &mut [u8]) -> Result<(), ReadError> {
        let end = first + (out.len() >> self.block_shift()) as u64;
        if self.1.iter().any(|bad| (first..end).contains(bad)) {
            return Err(ReadError::Failed(IoError::Medium));
        }
        self.0.read(first, out)
    }
}

#[test]
#[cfg_attr(miri, ignore = "checksums over too many bytes")]
fn one_table_that_the_disk_can_read_is_enough() {
    let gpt = good();
    let read = |bad: &[u64]| {
        let image = image(gpt.image(), gpt.block_shift);
        partitions(&disk("nvme0n1", 9, BLOCKS), &mut Worn(image, bad.to_vec()))
    };
    let table = read(&[199]).unwrap();
    assert_eq!(names(&table), ["nvme0n1p1", "nvme0n1p3"]);
    assert!(notes(&table).contains("the backup GPT in block 199 is damaged"));
    for bad in [1, 2, 33] {
        let table = read(&[bad]).unwrap();
        assert_eq!(names(&table), ["nvme0n1p1", "nvme0n1p3"], "{bad}");
        assert!(notes(&table).contains("its backup is used"), "{bad}");
    }
    let table = read(&[2, 199]).unwrap();
    assert!(table.partitions.is_empty() && notes(&table).contains("no partitions"));
    let without = read(&[0]).unwrap_err();
    assert_eq!(without, ReadError::Failed(IoError::Medium));
}

#[test]
#[cfg_attr(miri, ignore = "checksums over too many bytes")]
fn tables_that_differ_are_told() {
    let mut gpt = good();
    gpt.backup.last_usable_lba = LbaLe::from_u64(150);
    let table = table(&gpt.sealed());
    assert_eq!(names(&table), ["nvme0n1p1", "nvme0n1p3"]);
    assert!(notes(&table).contains("differ"));
}

#[test]
#[cfg_attr(miri, ignore = "checksums over too many bytes")]
fn a_disk_that_has_grown_keeps_its_partitions() {
    let gpt = good();
    let mut bytes = gpt.image();
    bytes.extend([0; 512 * 100]);
    let disk = disk("nvme0n1", 9, 300);
    let table = partitions(&disk, &mut image(bytes, 9)).unwrap();
    assert_eq!(table.notes, Vec::<String>::new());
    assert_eq!(names(&table), ["nvme0n1p1", "nvme0n1p3"]);
}

#[test]
fn entries_out_of_place_are_refused_and_the_others_kept() {
    let gpt = Gpt::new(9, BLOCKS)
        .with(1, 40, 59, "good")
        .with(2, 5, 39, "in the table")
        .with(4, 100, 199, "in the backup")
        .with(5, 80, 79, "backwards")
        .with(6, 60, u64::MAX, "far")
        .with(7, 100, 120, "one")
        .with(8, 120, 130, "two")
        .with(9, 110, 112, "inside one")
        .with(10, 131, 131, "good, and the smallest")
        .sealed();
    let table = table(&gpt);
    assert_eq!(names(&table), ["nvme0n1p1", "nvme0n1p10"]);
    assert!(notes(&table).contains("beyond the usable blocks: 2, 4, 5, 6"));
    assert!(notes(&table).contains("overlapping: 7, 8, 9"));
}

#[test]
fn a_gpt_counts_only_if_the_first_block_names_it() {
    let mut mbr = good();
    mbr.record.partitions[0].os_indicator = 0x83;
    assert_eq!(names(&table(&mbr)), ["nvme0n1p1"], "what it names counts");
    let mut none = good();
    none.record.signature = [0; 2];
    let found = table(&none);
    assert!(found.partitions.is_empty() && found.notes.is_empty());
    for blocks in 0..8 {
        let bytes = good().image()[..blocks << 9].to_vec();
        let disk = disk("nvme0n1", 9, blocks as u64);
        let found = partitions(&disk, &mut image(bytes, 9)).unwrap();
        assert!(found.partitions.is_empty());
    }
}

#[test]
#[cfg_attr(miri, ignore = "checksums over too many bytes")]
fn discards_of_a_partition_are_aligned_as_the_disk_is() {
    for (granularity, alignment, first, expected) in [
        (4096, 0, 40, 0),
        (4096, 0, 41, 3584),
        (4096, 512, 40, 512),
        (4096, 512, 41, 0),
        (1 << 20, 4096, 41, 4096 + (1 << 20) - 41 * 512),
    ] {
        let gpt = Gpt::new(9, BLOCKS).with(1, first, 99, "").sealed();
        let mut disk = disk("nvme0n1", 9, BLOCKS);
        disk.discard = Some(Discard {
            granularity,
            alignment,
            secure: true,
        });
        let found = partitions(&disk, &mut image(gpt.image(), 9)).unwrap();
        let discard = found.partitions[0].discard.unwrap();
        let expected = expected % granularity;
        assert_eq!(
            (discard.granularity, discard.alignment),
            (granularity, expected)
        );
        assert!(discard.secure);
    }
}

#[test]
#[cfg_attr(miri, ignore = "checksums over too many bytes")]
fn a_table_is_read_through_a_disk_queue() {
    let bus = FakeBus::new();
    let ram = RamDisk::new(1 << 20, &bus).unwrap();
    let mut queue = ram.queue(4, &bus);
    let volume = ram.volume("ram0", 0);
    let gpt = Gpt::new(9, 2048).with(2, 100, 199, "swap").sealed();
    let memory = bus.alloc(1).unwrap();
    let segments = pages(&memory);
    for (block, piece) in (0..).step_by(8).zip(gpt.image().chunks(4096)) {
        memory.write_bytes(0, piece);
        let write = command(Op::Write, block, &segments);
        assert_eq!(complete(&mut queue, &write), Ok(Ok(())));
    }
    let before = bus.outstanding();
    let clock = FakeClock::new(1000);
    let mut reader = BlockReader::new(&mut queue, &volume, &clock, &bus, 1_000_000).unwrap();
    let table = partitions(&volume, &mut reader).unwrap();
    assert_eq!(names(&table), ["ram0p2"]);
    let past = reader.read(2047, &mut [0; 1024]);
    assert_eq!(past, Err(ReadError::Range));
    drop(reader);
    assert_eq!(bus.outstanding(), before);
}

/// A disk that takes commands and never answers.
#[derive(Debug, Default)]
struct Mute(usize);

impl DiskQueue for Mute {
    fn submit(&mut self, _: &Command<'_>, _: Tag) -> Result<(), SubmitError> {
        self.0 += 1;
        Ok(())
    }

    fn commit(&mut self) {}

    fn poll(&mut self, _: impl FnMut(Tag, IoResult)) -> usize {
        0
    }

    fn in_flight(&self) -> usize {
        self.0
    }

    fn fail_all(&mut self, _: impl FnMut(Tag, IoResult)) {}
}

#[test]
fn a_disk_that_does_not_answer_keeps_the_page_and_is_not_asked_again() {
    let bus = FakeBus::new();
    let clock = FakeClock::new(1_000_000);
    let (mut queue, volume) = (Mute::default(), disk("vda", 9, BLOCKS));
    let mut reader = BlockReader::new(&mut queue, &volume, &clock, &bus, 5_000_000).unwrap();
    assert_eq!(
        partitions(&volume, &mut reader).unwrap_err(),
        ReadError::TimedOut
    );
    assert_eq!(reader.read(0, &mut [0; 512]), Err(ReadError::TimedOut));
    drop(reader);
    assert_eq!(queue.in_flight(), 1);
    assert_eq!(bus.outstanding(), 1, "the disk may still write to it");
    bus.set_limit(1);
    let none = BlockReader::new(&mut queue, &volume, &clock, &bus, 1);
    assert_eq!(none.unwrap_err(), ReadError::NoMemory);
}

/// The table of `disk` as it is read in steps from `blocks`, and how many there were.
fn in_steps(disk: &Volume, blocks: &mut impl Blocks) -> (Result<Table, ReadError>, usize) {
    let mut reader = TableReader::new(disk.clone());
    for steps in 0..100 {
        match reader.step() {
            TableStep::Read { first, bytes } => {
                assert!(bytes <= 4096 && bytes.is_multiple_of(1 << blocks.block_shift()));
                let mut out = vec![0; bytes];
                reader.add(blocks.read(first, &mut out).map(|()| out));
            }
            TableStep::Done(table) => return (table, steps),
        }
    }
    panic!("it does not end");
}

#[test]
fn a_table_that_is_read_in_steps_is_the_same() {
    let mut damaged = good();
    damaged.primary.revision = Default::default();
    let mut moved = good();
    moved.primary.alternate_lba = LbaLe::from_u64(2);
    let four_k = Gpt::new(12, BLOCKS).with(2, 40, 59, "a").sealed();
    for gpt in [good(), damaged, moved.sealed(), four_k] {
        let disk = disk("nvme0n1", gpt.block_shift, gpt.blocks);
        let whole = table(&gpt);
        let image = image(gpt.image(), gpt.block_shift);
        let (read, steps) = in_steps(&disk, &mut image.clone());
        let read = read.unwrap();
        assert_eq!(
            (&read.partitions, &read.notes),
            (&whole.partitions, &whole.notes)
        );
        assert!(steps > 3 && steps < 20, "{steps}");
        // Each way to fail is what it would be at once.
        for bad in [0, 1, 2, 5, gpt.blocks - 1] {
            let mut worn = Worn(image.clone(), vec![bad]);
            let at_once = spindle_block::table(&disk, &mut worn);
            let (read, _) = in_steps(&disk, &mut worn);
            assert_eq!(format!("{read:?}"), format!("{at_once:?}"), "{bad}");
        }
    }
    let (none, steps) = in_steps(&disk("vda", 9, BLOCKS), &mut image(vec![0; 102_400], 9));
    assert_eq!((none.unwrap().partitions.len(), steps), (0, 2));
}

#[test]
fn a_table_that_is_read_in_steps_takes_little_memory() {
    const ENTRIES: u32 = 1024;
    let mut gpt = Gpt::new(9, 2048);
    for header in [&mut gpt.primary, &mut gpt.backup] {
        header.number_of_partition_entries = U32Le::from_u32(ENTRIES);
        header.first_usable_lba = LbaLe::from_u64(258);
    }
    gpt.entries.resize(ENTRIES as usize, Default::default());
    let disk = disk("nvme0n1", 9, gpt.blocks);
    let (read, steps) = in_steps(&disk, &mut image(gpt.sealed().image(), 9));
    assert_eq!(read.unwrap_err(), ReadError::NoMemory);
    assert!(steps < 20, "{steps}");
}

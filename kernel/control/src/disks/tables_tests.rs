//! Tables of disks that come while guests are served, with cores and disks played by hand.

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::Cell;

use spindle_blkif::BlockRead;
use spindle_block::{Access, BlockController, SubmitError, Table, Unit, Volume};
use spindle_hw::SharedPages;
use spindle_testkit::gpt::Gpt;
use spindle_testkit::lvm::{LvmImage, LvmText};
use spindle_xen::DomId;
use spindle_xen::xenbus::DeviceId;

use super::Disks;

const BLOCKS: u64 = 2048;
const SECOND: u64 = 1_000_000_000;

/// A disk of so many blocks of 512 bytes, of which nothing works by itself.
struct Still(Volume);

impl BlockController<()> for Still {
    fn name(&self) -> &str {
        &self.0.name
    }

    fn place(&self) -> u32 {
        0
    }

    fn volumes(&self, disk: usize) -> Vec<Volume> {
        Vec::from([Volume {
            disk,
            ..self.0.clone()
        }])
    }

    fn create_queue(&mut self) -> Result<(), String> {
        Ok(())
    }

    fn shutdown(self: Box<Self>, _queues: Vec<()>) -> Result<(), String> {
        Ok(())
    }
}

/// One disk, its contents, and how many pages were asked for to read it.
struct Bench {
    disks: Disks<()>,
    image: Vec<u8>,
    pages: Rc<Cell<usize>>,
    now: u64,
}

impl Bench {
    fn new(image: Vec<u8>) -> Self {
        let volume = Volume {
            name: "disk0".into(),
            aliases: Vec::new(),
            disk: 0,
            unit: Unit(0),
            start: 0,
            sectors: BLOCKS,
            block_shift: 9,
            physical_block_shift: 9,
            read_only: false,
            write_cache: false,
            discard: None,
            description: String::new(),
            map: None,
        };
        let controller: Box<dyn BlockController<()>> = Box::new(Still(volume));
        let no_tables = None::<fn(&Volume, &mut ()) -> Table>;
        let mut disks = Disks::new(Vec::from([controller]), Vec::new(), no_tables);
        let pages = Rc::new(Cell::new(0));
        let asked = Rc::clone(&pages);
        disks.read_tables(Box::new(move || {
            asked.set(asked.get() + 1);
            Some(SharedPages::host(1, 0))
        }));
        Self {
            disks,
            image,
            pages,
            now: SECOND,
        }
    }

    /// What a core is asked for next, how many have not taken it, and whether partitions have changed.
    fn next(&mut self) -> (Option<(Box<BlockRead>, usize)>, bool) {
        let mut divided = false;
        let read = self.disks.next_read(self.now, &mut divided);
        (read, divided)
    }

    /// A core reads what it was asked for.
    fn carry_out(&mut self, mut read: BlockRead) {
        let from = 512 * read.block as usize;
        let bytes = &self.image[from..from + read.bytes as usize];
        read.page.as_ref().unwrap().write_bytes(0, bytes);
        read.outcome = Ok(());
        self.disks.has_read(read);
    }

    /// Looks at the table again, with cores that work; whether partitions have changed.
    fn look(&mut self) -> bool {
        self.disks.rescan(self.now);
        loop {
            match self.next() {
                (Some((read, _)), _) => self.carry_out(*read),
                (None, divided) => return divided,
            }
        }
    }

    /// Its partitions: where each begins.
    fn partitions(&self) -> Vec<(String, u64)> {
        let targets = &self.disks.targets;
        let volumes = (1..=9).filter_map(|number| {
            let name = alloc::format!("disk0p{number}");
            let volume = targets.volume(targets.named(&name).ok()?);
            Some((name, volume.start))
        });
        volumes.collect()
    }
}

fn table(starts: &[u64]) -> Vec<u8> {
    let mut table = Gpt::new(9, BLOCKS);
    for (number, &start) in (1..).zip(starts) {
        table = table.with(number, start, start + 63, "part");
    }
    table.sealed().image()
}

fn at(starts: &[u64]) -> Vec<(String, u64)> {
    let named = |(number, start)| (alloc::format!("disk0p{number}"), start);
    (1..).zip(starts.iter().copied()).map(named).collect()
}

#[test]
fn whatever_changes_in_a_table_is_passed_on_and_nothing_else() {
    let mut bench = Bench::new(table(&[64, 256]));
    assert!(bench.look());
    assert_eq!(bench.partitions(), at(&[64, 256]));
    // As many as before, elsewhere.
    bench.image = table(&[64, 512]);
    assert!(bench.look());
    assert_eq!(bench.partitions(), at(&[64, 512]));
    bench.image = table(&[64]);
    assert!(bench.look());
    assert_eq!(bench.partitions(), at(&[64]));
    // None is left,
    bench.image = table(&[]);
    assert!(bench.look());
    assert_eq!(bench.partitions(), at(&[]));
    // and there is none to take away.
    assert!(!bench.look());
    assert_eq!(bench.pages.get(), 1, "one page does for all");
}

#[test]
fn logical_volumes_come_and_go_with_the_metadata_of_a_partition() {
    let uuid = b"AAAAAAaaaabbbbccccddddeeeeffffff";
    let image = |volumes: &[&str]| {
        let mut text = LvmText::new("vg0").on(uuid);
        for (at, name) in (0..).zip(volumes) {
            text = text.with(name, &[(1, 0, &[(0, at)])]);
        }
        let mut image = Gpt::new(9, BLOCKS)
            .with(1, 64, 1663, "part")
            .sealed()
            .image();
        let part = LvmImage::new(uuid, 1600, &text.text()).image();
        image[64 * 512..1664 * 512].copy_from_slice(&part);
        image
    };
    let start = |bench: &Bench, name: &str| {
        let id = bench.disks.targets.named(name).ok()?;
        Some(bench.disks.targets.volume(id).start)
    };
    let mut bench = Bench::new(image(&["web", "db"]));
    assert!(bench.look());
    let found = [start(&bench, "vg0/web"), start(&bench, "vg0/db")];
    assert_eq!(found, [Some(64 + 256), Some(64 + 256 + 8)]);
    bench.image = image(&["web"]);
    assert!(bench.look());
    assert_eq!(start(&bench, "vg0/web"), found[0]);
    assert_eq!(start(&bench, "vg0/db"), None);
    // The disk is replaced by one that has not been read yet.
    bench.disks.targets.close(0, Unit(0), "replaced");
    assert_eq!(start(&bench, "vg0/web"), None);
    // Nothing moves beneath a guest.
    let mut bench = Bench::new(image(&["web", "db"]));
    assert!(bench.look());
    let (frontend, device) = (DomId(3), 51712);
    let id = DeviceId { frontend, device };
    let targets = &mut bench.disks.targets;
    targets.claim("vg0/db", Access::Write, id).unwrap();
    bench.image = image(&["db"]);
    assert!(!bench.look(), "it is not looked at");
    assert_eq!(start(&bench, "vg0/web"), found[0]);
    bench.disks.targets.release(id);
    assert!(bench.look());
    assert_eq!(start(&bench, "vg0/db"), found[0]);
}

#[test]
fn a_core_that_does_not_take_a_read_is_asked_so_often_and_no_more() {
    let mut bench = Bench::new(table(&[64]));
    bench.disks.rescan(bench.now);
    for tries in 0..32 {
        let (read, _) = bench.next();
        let (mut read, refused) = read.expect("another try");
        assert_eq!(refused, tries);
        read.outcome = Err(SubmitError::Gone.into());
        bench.disks.has_read(*read);
    }
    let (read, divided) = bench.next();
    assert!(read.is_none() && !divided);
    assert_eq!(bench.partitions(), at(&[]));
    // Whoever asks again is not refused for that.
    assert!(bench.look());
    assert_eq!(bench.partitions(), at(&[64]));
}

#[test]
fn what_a_lost_disk_was_asked_for_is_asked_for_again_when_it_is_back() {
    let mut bench = Bench::new(table(&[64]));
    bench.disks.rescan(bench.now);
    let name = || String::from("disk0");
    for _ in 0..40 {
        let (read, refused) = bench.next().0.expect("it works");
        assert_eq!(refused, 0, "the disk's fault, not the core's");
        bench
            .disks
            .targets
            .set_lost(0, name(), "a test".into(), false);
        bench.disks.has_read(BlockRead {
            outcome: Err(SubmitError::Gone.into()),
            ..*read
        });
        assert!(bench.next().0.is_none(), "not as long as it is lost");
        bench.disks.targets.set_found(0, "disk0");
    }
    let divided = loop {
        match bench.next() {
            (Some((read, _)), _) => bench.carry_out(*read),
            (None, divided) => break divided,
        }
    };
    assert!(divided);
    assert_eq!(bench.partitions(), at(&[64]));
}

#[test]
fn a_disk_that_cannot_be_read_costs_no_further_read() {
    let mut bench = Bench::new(table(&[64]));
    bench.disks.rescan(bench.now);
    let (mut read, _) = bench.next().0.unwrap();
    // The page is the disk's from now on.
    (read.page, read.outcome) = (None, Ok(()));
    bench.disks.has_read(*read);
    assert!(bench.next().0.is_none());
    assert_eq!(bench.partitions(), at(&[]));
    assert!(bench.look());
    assert_eq!(bench.pages.get(), 2, "with another page");
}

#[test]
fn a_core_is_looked_for_at_short_intervals_for_a_second() {
    let mut bench = Bench::new(table(&[64]));
    let is_reading = |bench: &mut Bench, after| bench.disks.is_reading(bench.now + after);
    assert!(!is_reading(&mut bench, 0), "nothing is asked for");
    bench.disks.rescan(bench.now);
    let (read, _) = bench.next().0.unwrap();
    for (after, expected) in [
        (0, true),
        (SECOND - 1, true),
        (SECOND, false),
        (100 * SECOND, false),
        (101 * SECOND, false),
    ] {
        assert_eq!(is_reading(&mut bench, after), expected, "{after}");
    }
    assert!(bench.next().0.is_none(), "one core, one read");
    bench.carry_out(*read);
    assert!(!is_reading(&mut bench, 0), "it has answered");
}

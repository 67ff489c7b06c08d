//! Tables of disks that come while guests are served, with cores and disks played by hand.

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::Cell;

use spindle_blkif::BlockAccess;
use spindle_block::{Access, BlockController, SubmitError, Table, Unit, Volume, VolumeId};
use spindle_hw::SharedPages;
use spindle_testkit::gpt::Gpt;
use spindle_testkit::lvm::{LvmImage, LvmSegment, LvmText};
use spindle_xen::DomId;
use spindle_xen::xenbus::DeviceId;

use super::Disks;
use super::care::Care;

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
    /// What has grown that is open.
    grown: Vec<VolumeId>,
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
            grown: Vec::new(),
            now: SECOND,
        }
    }

    /// What a core is asked for next, how many have not taken it, and whether partitions have changed.
    fn next(&mut self) -> (Option<(Box<BlockAccess>, usize)>, bool) {
        let mut care = Care::default();
        let read = self.disks.next_read(self.now, &|_, _| Ok(()), &mut care);
        self.grown.extend(care.grown);
        (read, care.listed)
    }

    /// A core reads what it was asked for.
    fn carry_out(&mut self, mut read: BlockAccess) {
        let from = 512 * read.block as usize;
        let bytes = &self.image[from..from + read.bytes as usize];
        read.page.as_ref().unwrap().write_bytes(0, bytes);
        read.outcome = Ok(());
        self.disks.has_read(read);
    }

    /// Looks at the table again, with cores that work; whether partitions have changed.
    fn look(&mut self) -> bool {
        self.disks.rescan(self.now);
        let mut any = false;
        loop {
            let (read, divided) = self.next();
            any |= divided;
            match read {
                Some((read, _)) => self.carry_out(*read),
                None => return any,
            }
        }
    }

    /// A guest has this volume for writing.
    fn claim(&mut self, name: &str, guest: u16) -> VolumeId {
        let claimed = (self.disks.targets).claim(name, Access::Write, device(guest));
        claimed.unwrap()
    }

    /// What the administrator is answered who asked last.
    fn answer(&mut self) -> String {
        self.disks.rescanned(false, self.now).expect("it is due")
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
    // Nothing moves beneath a guest, and others come and go.
    let mut bench = Bench::new(image(&["web", "db"]));
    assert!(bench.look());
    let id = bench.claim("vg0/db", 1);
    bench.image = image(&["new", "db", "old"]);
    assert!(bench.look());
    let start_of_db = |bench: &Bench| bench.disks.targets.volume(id).start;
    assert_eq!(Some(start_of_db(&bench)), found[1]);
    assert_eq!(start(&bench, "vg0/new"), found[0]);
    assert!(start(&bench, "vg0/old").is_some());
    assert_eq!(bench.answer(), "1\ndisk0 works");
    bench.image = image(&["db"]);
    assert!(bench.look());
    assert_eq!(Some(start_of_db(&bench)), found[1]);
    assert_eq!(
        bench.answer(),
        "2\ndisk0 works\nvg0/db: stays what it was, since a guest has it open: it would lie elsewhere"
    );
    bench.disks.targets.release(device(1));
    assert!(bench.look());
    assert_eq!(start(&bench, "vg0/db"), found[0]);
    assert_eq!(bench.answer(), "3\ndisk0 works");
}

fn device(number: u16) -> DeviceId {
    let (frontend, device) = (DomId(number), 51712);
    DeviceId { frontend, device }
}

#[test]
fn what_a_guest_has_open_grows_with_its_metadata_or_its_table() {
    let uuid = b"AAAAAAaaaabbbbccccddddeeeeffffff";
    let image = |size: u64, segments: &[LvmSegment<'_>]| {
        let text = LvmText::new("vg0").on(uuid).with("web", segments);
        let mut image = Gpt::new(9, BLOCKS)
            .with(1, 64, 1663, "part")
            .with(2, 1700, 1700 + size - 1, "part")
            .sealed()
            .image();
        let part = LvmImage::new(uuid, 1600, &text.text()).image();
        image[64 * 512..1664 * 512].copy_from_slice(&part);
        image
    };
    let mut bench = Bench::new(image(8, &[(1, 0, &[(0, 0)])]));
    assert!(bench.look());
    let web = bench.claim("vg0/web", 1);
    let part = bench.claim("disk0p2", 2);
    let sectors = |bench: &Bench| {
        let sectors = [web, part].map(|id| bench.disks.targets.volume(id).sectors);
        (sectors, core::mem::take(&mut bench.grown.clone()))
    };
    assert_eq!(sectors(&bench), ([8, 8], Vec::new()));
    for (size, segments, expected) in [
        (16, &[(3, 0, &[(0, 0)][..])][..], [24, 16]),
        (16, &[(3, 0, &[(0, 0)]), (2, 0, &[(0, 9)])], [40, 16]),
        (24, &[(3, 0, &[(0, 0)]), (4, 0, &[(0, 9)])], [56, 24]),
    ] {
        bench.grown.clear();
        bench.image = image(size, segments);
        assert!(bench.look());
        let (sizes, grown) = sectors(&bench);
        assert_eq!(sizes, expected);
        assert!(grown.contains(&web));
        bench.grown.clear();
        assert!(bench.look());
        assert_eq!(sectors(&bench), (expected, Vec::new()), "the same again");
    }
    // And none of it is taken from them.
    bench.image = image(16, &[(3, 0, &[(0, 0)])]);
    assert!(bench.look());
    assert_eq!(sectors(&bench), ([56, 24], Vec::new()));
    let answer = bench.answer();
    let lines: Vec<_> = answer.lines().skip(2).collect();
    assert_eq!(lines.len(), 2, "{answer}");
    assert!(
        lines
            .iter()
            .all(|line| line.ends_with("it would be smaller"))
    );
}

#[test]
fn the_answer_names_the_disks_whose_tables_were_not_read() {
    let mut bench = Bench::new(table(&[64]));
    assert!(bench.look());
    bench.answer();
    bench.claim("disk0", 1);
    bench.image = table(&[64, 256]);
    assert!(!bench.look());
    let answer = bench.answer();
    let why = "disk0: its table was not read: 1/51712 has all of it for writing";
    assert_eq!(answer, alloc::format!("2\ndisk0 works\n{why}"));
    bench.disks.targets.release(device(1));
    assert!(bench.look());
    assert_eq!(bench.partitions(), at(&[64, 256]));
    assert_eq!(bench.answer(), "3\ndisk0 works");
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
        bench.disks.has_read(BlockAccess {
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

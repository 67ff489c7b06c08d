//! Records as the next life reads them, whole, damaged, or written in part.

use proptest::collection::vec;
use proptest::prelude::*;
use spindle_hw::{PAGE_SIZE, SharedPages};
use spindle_kept::layout::{FIXED_PAGES, JOURNALS, MAGIC_AT, begin};
use spindle_kept::{DeviceRecord, JournalPlace, LimitRecord, OpeningRecord, QueueRecord, Records};

fn queue() -> impl Strategy<Value = QueueRecord> {
    let journal = (any::<u32>(), 1..100u32);
    let journal = journal.prop_map(|(first, pages)| JournalPlace { first, pages });
    let parts = (
        vec(any::<u32>(), 0..17),
        any::<u32>(),
        any::<u16>(),
        proptest::option::of(journal),
        vec(any::<u64>(), 0..40),
    );
    parts.prop_map(
        |(refs, event_channel, core, journal, counters)| QueueRecord {
            refs,
            event_channel,
            core,
            journal,
            counters,
        },
    )
}

fn device() -> impl Strategy<Value = DeviceRecord> {
    let numbers = (
        any::<u16>(),
        any::<u32>(),
        any::<u64>(),
        any::<u64>(),
        any::<u64>(),
        any::<[bool; 4]>(),
    );
    let lists = (
        ".{0,30}",
        vec(queue(), 0..5),
        proptest::option::of(opening()),
    );
    (numbers, lists).prop_map(|(numbers, (volume, queues, opening))| {
        let (domain, device, identity, sectors, at_work_ns, flags) = numbers;
        let [x86_32, persistent, large_sectors, lossy] = flags;
        DeviceRecord {
            domain,
            device,
            volume,
            identity,
            sectors,
            x86_32,
            persistent,
            large_sectors,
            at_work_ns,
            queues,
            lossy,
            opening,
        }
    })
}

fn opening() -> impl Strategy<Value = OpeningRecord> {
    (".{0,30}", ".{0,30}", any::<[bool; 4]>()).prop_map(|(target, limits, flags)| {
        let [read_only, shared, discard, in_sectors] = flags;
        OpeningRecord {
            target,
            read_only,
            shared,
            discard,
            in_sectors,
            limits,
        }
    })
}

/// Pages of which there is one for each test thread: those of the host are never given back.
fn kept() -> &'static SharedPages {
    thread_local! {
        static PAGES: &'static SharedPages = Box::leak(Box::new(SharedPages::host(FIXED_PAGES, 0)));
    }
    let pages = PAGES.with(|pages| *pages);
    pages.zero(MAGIC_AT, PAGE_SIZE);
    assert_eq!(begin(pages, false), Ok(1));
    pages
}

/// Every byte that is not 0 after records were written: where it is.
fn written(pages: &SharedPages) -> Vec<usize> {
    let mut bytes = vec![0; JOURNALS];
    pages.read_bytes(0, &mut bytes);
    // Magic, version and lives are not the records' own.
    let places = bytes.iter().enumerate().skip(MAGIC_AT + 24);
    places
        .filter(|(_, byte)| **byte != 0)
        .map(|(at, _)| at)
        .collect()
}

/// Of an image before there were limits nothing else is expected than devices.
#[test]
fn limits_are_kept_beside_devices_and_do_not_count_as_such() {
    let mut records = Records::new(kept());
    let limits = |of: &str, words: &str| LimitRecord {
        of: of.into(),
        words: words.into(),
    };
    records.limits = vec![limits("5/51712", "iops=500:weight=4"), limits("@db", "")];
    assert_eq!(records.write([].iter()), 0);
    let read = records.read();
    assert_eq!(
        (&read.limits, read.devices.len(), read.damaged),
        (&records.limits, 0, 0)
    );
    records.limits.clear();
    records.write([].iter());
    assert_eq!(records.read().limits, []);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_read_is_what_was_written_last(
        first in vec(device(), 0..5),
        second in vec(device(), 0..9),
    ) {
        let mut records = Records::new(kept());
        prop_assert_eq!(records.read().devices.len(), 0);
        prop_assert_eq!(records.write(first.iter()), 0);
        prop_assert_eq!(&records.read().devices, &first);
        prop_assert_eq!(records.write(second.iter()), 0);
        let read = records.read();
        prop_assert_eq!(&read.devices, &second);
        prop_assert_eq!(read.damaged, 0);
    }

    /// Whatever byte differs: a record is as it was, or it is not there and is missed.
    #[test]
    fn a_byte_that_differs_costs_no_more_than_the_record_it_is_in(
        devices in vec(device(), 1..5),
        place in any::<proptest::sample::Index>(),
        other in 1..=255u8,
    ) {
        let pages = kept();
        let mut records = Records::new(pages);
        records.write(devices.iter());
        let places = written(pages);
        let at = *place.get(&places);
        pages.u8_at(at).fetch_xor(other, std::sync::atomic::Ordering::SeqCst);
        let read = records.read();
        let mut left = devices.iter();
        for device in &read.devices {
            // What its disk was opened by has a record of its own.
            let bare = |known: &DeviceRecord| DeviceRecord { opening: None, ..known.clone() };
            let is_it = |known: &&DeviceRecord| *known == device || bare(known) == *device;
            prop_assert!(left.any(|known| is_it(&known)), "byte {at}: {device:?}");
        }
        if at >= MAGIC_AT + 32 {
            prop_assert!(read.devices.len() + 1 >= devices.len(), "byte {at}: more than one is lost");
            let lost = devices.len() - read.devices.len();
            prop_assert!(read.damaged >= lost, "byte {at}: a loss that is not noticed");
        }
    }

    /// Whatever a death has left of a writing that does not count yet, the one before it counts.
    #[test]
    fn a_writing_that_was_cut_short_leaves_the_former_one(
        first in vec(device(), 1..4),
        second in vec(device(), 1..4),
        cut in any::<proptest::sample::Index>(),
    ) {
        let pages = kept();
        let mut records = Records::new(pages);
        records.write(first.iter());
        let mut before = vec![0; JOURNALS];
        pages.read_bytes(0, &mut before);
        records.write(second.iter());
        let mut after = vec![0; JOURNALS];
        pages.read_bytes(0, &mut after);
        // The word that makes it count comes last; the rest from the front on.
        let header = MAGIC_AT + PAGE_SIZE;
        let at = header + cut.index(JOURNALS - header);
        pages.write_bytes(0, &before[..header]);
        pages.write_bytes(at, &before[at..]);
        let read = records.read();
        prop_assert_eq!(read.devices, first);
        prop_assert_eq!(read.damaged, 0);
    }
}

#[test]
fn what_has_no_room_is_left_out_and_counted() {
    let device = |number| DeviceRecord {
        domain: 1,
        device: number,
        volume: "x".repeat(60_000),
        identity: 0,
        sectors: 0,
        x86_32: false,
        persistent: false,
        large_sectors: false,
        at_work_ns: 0,
        queues: Vec::new(),
        lossy: false,
        opening: None,
    };
    let devices: Vec<_> = (0..3).map(device).collect();
    let mut records = Records::new(kept());
    assert_eq!(records.write(devices.iter()), 1);
    let read = records.read();
    assert_eq!(read.devices.len(), 2);
    assert_eq!(read.damaged, 1);
}

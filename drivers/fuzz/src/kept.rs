//! Kept memory after a stray write: whatever stands there, a life of the kernel begins with what it can
//! check.

use arbitrary::Arbitrary;
use spindle_hw::SharedPages;
use spindle_kept::layout::{FIXED_PAGES, JOURNALS};
use spindle_kept::{DeviceRecord, JournalPlace, JournalRooms, Kept, QueueRecord};

/// Pages for journals.
const ROOM: usize = 16;

/// A device on record.
#[derive(Arbitrary, Debug)]
struct Known {
    domain: u16,
    device: u32,
    volume: String,
    numbers: [u64; 3],
    flags: [bool; 4],
    queues: Vec<(Vec<u32>, u32, u16, u8, u8)>,
}

/// A stray write.
#[derive(Arbitrary, Debug)]
struct Stray {
    at: u32,
    bytes: Vec<u8>,
}

#[derive(Arbitrary, Debug)]
struct Input {
    known: Vec<Known>,
    strays: Vec<Stray>,
}

impl Known {
    fn record(self) -> DeviceRecord {
        let [identity, sectors, at_work_ns] = self.numbers;
        let [x86_32, persistent, large_sectors, lossy] = self.flags;
        let queue = |(refs, event_channel, core, first, pages): (Vec<u32>, _, _, u8, u8)| {
            let (first, pages) = (first.into(), pages.into());
            QueueRecord {
                counters: refs.iter().map(|gref| u64::from(*gref)).collect(),
                refs,
                event_channel,
                core,
                journal: (pages > 0).then_some(JournalPlace { first, pages }),
            }
        };
        DeviceRecord {
            domain: self.domain,
            device: self.device,
            volume: self.volume,
            identity,
            sectors,
            x86_32,
            persistent,
            large_sectors,
            at_work_ns,
            queues: self.queues.into_iter().map(queue).collect(),
            lossy,
            opening: None,
        }
    }
}

/// Runs the target.
///
/// # Panics
/// If something does not hold that must.
pub fn run(data: &[u8]) {
    let Ok(input) = Input::arbitrary(&mut arbitrary::Unstructured::new(data)) else {
        return;
    };
    let pages = SharedPages::host(FIXED_PAGES + ROOM, 0);
    let pages: &'static SharedPages = Box::leak(Box::new(pages));
    let kept = Kept::open(pages).expect("there are enough");
    let known: Vec<_> = input.known.into_iter().map(Known::record).collect();
    let left_out = kept.records().write(known.iter());
    let read = kept.records().read();
    assert_eq!(read.damaged, left_out);
    assert!(read.devices.len() + left_out == known.len());
    assert!(read.devices.iter().all(|device| known.contains(device)));
    for Stray { at, bytes } in &input.strays {
        let at = *at as usize % pages.len();
        let room = (pages.len() - at).min(bytes.len());
        pages.write_bytes(at, &bytes[..room]);
    }
    let kept = Kept::open_again(pages).expect("there are still enough");
    let read = kept.records().read();
    // What is read is as good as what was written: it can be written, and read again.
    let mut records = kept.records();
    let left_out = records.write(read.devices.iter());
    assert_eq!(records.read().devices.len() + left_out, read.devices.len());
    let mut rooms = JournalRooms::new(pages);
    let mut taken = [false; ROOM];
    let queues = read.devices.iter().flat_map(|device| &device.queues);
    for place in queues.filter_map(|queue| queue.journal) {
        if rooms.claim(place) {
            let journal = kept.journal(place).expect("it is there");
            assert_eq!(journal.len(), place.pages as usize * 4096);
            let run = place.first as usize..(place.first + place.pages) as usize;
            for page in &mut taken[run] {
                assert!(!core::mem::replace(page, true), "two have the same page");
            }
        }
    }
    let mappings = kept.mappings();
    let under_way = mappings.under_way();
    assert!(mappings.mapped().all(|(_, at)| !under_way.contains(&at)));
    let all: Vec<_> = mappings.mapped().collect();
    all.into_iter()
        .for_each(|(handle, at)| mappings.forget(handle, at));
    mappings.clear_calls();
    assert!(mappings.mapped().next().is_none() && mappings.under_way().is_empty());
    assert!(JOURNALS < pages.len());
}

//! Files that are images, and files that are not.

use proptest::prelude::*;
use zerocopy::IntoBytes;

use super::*;
use crate::image::{HEAD_LEN, HEAD_MAGIC, HEAD_VERSION, HeadRecord, ImageOffer, LAYOUTS};
use spindle_hw::{PAGE_SIZE, SharedPages};

const START: u64 = 0x20_0000;
const BSS: u64 = START + 0x3000;
const END: u64 = BSS + 0x2000;
const PLACE_END: u64 = START + 0x10_0000;
const ENTRY: u64 = START + 256;
/// Where in the file the parts are: segments, text, data, note.
const SEGMENTS: usize = 64;
const TEXT: usize = 0x200;
const DATA: usize = TEXT + 0x1000;
const NOTES: usize = DATA + 0x800;

fn head() -> HeadRecord {
    let mut name = [0; 128];
    name[..9].copy_from_slice(b"1.2.3 abc");
    HeadRecord {
        magic: HEAD_MAGIC.into(),
        version: HEAD_VERSION.into(),
        layout: LAYOUTS.0.into(),
        reads: LAYOUTS.1.into(),
        reserved: U32::ZERO,
        start: START.into(),
        entry: ENTRY.into(),
        bss: BSS.into(),
        end: END.into(),
        place_end: PLACE_END.into(),
        name,
        rest: [0; 64],
    }
}

fn file_with(head: &HeadRecord) -> Vec<u8> {
    let mut file = std::vec![0; NOTES + 24];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"\x7fELF\x02\x01\x01");
    put(16, &[2, 0, 62, 0, 1]);
    put(32, &(SEGMENTS as u64).to_le_bytes());
    put(54, &56_u16.to_le_bytes());
    put(56, &4_u16.to_le_bytes());
    let segments = [
        (NOTE, NOTES, BSS - 24, 24, 24),
        (LOAD, TEXT, START, 0x1000, 0x1000),
        (LOAD, DATA, START + 0x2000, 0x800, 0x800),
        (LOAD, 0, BSS, 0, PLACE_END - BSS),
    ];
    for (number, (kind, at, address, in_file, in_memory)) in segments.into_iter().enumerate() {
        let here = SEGMENTS + number * 56;
        put(here, &kind.to_le_bytes());
        let words = [at as u64, address, address, in_file, in_memory];
        for (word, value) in words.into_iter().enumerate() {
            put(here + 8 + word * 8, &value.to_le_bytes());
        }
    }
    put(TEXT, head.as_bytes());
    put(TEXT + 0xfff, &[7]);
    put(DATA, &[8]);
    put(NOTES, &[4, 0, 0, 0, 8, 0, 0, 0, 18, 0, 0, 0]);
    put(NOTES + 12, b"Xen\0");
    put(NOTES + 16, &ENTRY.to_le_bytes());
    file
}

fn file() -> Vec<u8> {
    file_with(&head())
}

/// The file with a byte that is another one.
fn changed(at: usize, byte: u8) -> Vec<u8> {
    let mut file = file();
    assert_ne!(file[at], byte);
    file[at] = byte;
    file
}

fn error(file: &[u8]) -> BadFile {
    lay_out(file).expect_err("an error")
}

#[test]
fn an_image_is_laid_out_as_it_lies_in_memory() {
    let image = lay_out(&file()).expect("an image");
    assert_eq!(image.bytes.len(), 0x3000);
    assert_eq!(
        [0xfff, 0x1000, 0x1fff, 0x2000, 0x2801].map(|at| image.bytes[at]),
        [7, 0, 0, 8, 0]
    );
    let head = image.head;
    assert_eq!(head.version(), "1.2.3 abc");
    assert_eq!(std::format!("{head}"), "1.2.3 abc");
    assert_eq!((head.start(), head.entry()), (START, ENTRY));
    assert_eq!((head.bss(), head.loaded()), (BSS..END, 0x3000));
}

#[test]
fn a_file_that_is_no_image_is_refused_with_the_reason() {
    assert_eq!(error(b""), BadFile::NotElf);
    assert_eq!(error(&file()[..63]), BadFile::NotElf);
    for (at, byte) in [(0, 0), (4, 1), (16, 3), (18, 3), (54, 55)] {
        assert_eq!(error(&changed(at, byte)), BadFile::NotElf, "byte {at}");
    }
    let file = file();
    let cut = |len: usize| error(&file[..len]);
    assert_eq!(
        cut(SEGMENTS + 100),
        BadFile::CutOff("its table of segments")
    );
    assert_eq!(cut(DATA + 1), BadFile::CutOff("a segment"));
    assert_eq!(cut(NOTES + 23), BadFile::Entry);
    // The text's place in memory, as linked; its size there; where the data lies.
    let text = SEGMENTS + 56;
    let virt = error(&changed(text + 16 + 2, 1));
    assert_eq!(virt, BadFile::Segments("one is not where it is linked"));
    let small = error(&changed(text + 40 + 1, 1));
    assert_eq!(small, BadFile::Segments("one is not where it is linked"));
    let mut over = file.clone();
    for at in [16, 24] {
        over[text + 56 + at + 1] = 0;
    }
    assert_eq!(
        error(&over),
        BadFile::Segments("they are not in order, or too large")
    );
    let huge = error(&changed(SEGMENTS + 3 * 56 + 40 + 3, 1));
    assert_eq!(
        huge,
        BadFile::Segments("they are not in order, or too large")
    );
    let mut none = file.clone();
    (1..4).for_each(|number| none[SEGMENTS + number * 56] = 6);
    assert_eq!(error(&none), BadFile::Segments("there are none"));
    // The entry's note: its name, its kind, what it says; and no note at all.
    for (at, byte) in [(12, 0), (8, 17), (16, 1)] {
        assert_eq!(
            error(&changed(NOTES + at, byte)),
            BadFile::Entry,
            "byte {at}"
        );
    }
    assert_eq!(error(&changed(SEGMENTS, 6)), BadFile::Entry);
}

#[test]
fn a_head_that_makes_no_sense_is_refused() {
    let read = |change: fn(&mut HeadRecord)| {
        let mut head = head();
        change(&mut head);
        ImageHead::read(head.as_bytes()).expect_err("an error")
    };
    assert_eq!(read(|head| head.magic += 1), Unfit::NoHead);
    assert_eq!(read(|head| head.version += 1), Unfit::HeadVersion(2));
    let changes: [fn(&mut HeadRecord); 9] = [
        |head| head.entry = head.bss,
        |head| head.entry = (START - 1).into(),
        |head| head.bss = (END + 0x1000).into(),
        |head| head.bss += 1,
        |head| head.end = (PLACE_END + 0x1000).into(),
        |head| head.place_end = (1 << 32).into(),
        |head| head.reads = head.layout + 1,
        |head| head.name = [0; 128],
        |head| head.name[3] = b'\n',
    ];
    for (number, change) in changes.into_iter().enumerate() {
        assert_eq!(read(change), Unfit::Order, "change {number}");
    }
    let mut other = head();
    other.end = (END + 0x1000).into();
    assert!(lay_out(&file_with(&other)).is_ok(), "the place has room");
    other.bss = (BSS - 0x1000).into();
    let error = error(&file_with(&other));
    assert_eq!(error, BadFile::Segments("its head contradicts them"));
    assert_eq!(ImageHead::read(&[0; 255]), Err(Unfit::NoHead));
}

#[test]
fn a_head_may_use_all_that_there_is_and_not_a_byte_more() {
    // Up to the end of what 32-bit mode enters safely.
    let mut top = head();
    top.place_end = (1 << 31).into();
    assert!(ImageHead::read(top.as_bytes()).is_ok());
    // Its zeros begin where the last byte in the file ends, and end with the place in memory.
    let mut tight = head();
    tight.end = PLACE_END.into();
    assert_eq!(
        lay_out(&file_with(&tight)).expect("an image").bytes.len(),
        0x3000
    );
    let sized = |place: usize, value: u64| {
        let mut file = file();
        file[place..place + 8].copy_from_slice(&value.to_le_bytes());
        file
    };
    let (data, zeros) = (SEGMENTS + 2 * 56, SEGMENTS + 3 * 56);
    let contradicts = BadFile::Segments("its head contradicts them");
    let mut full = sized(data + 32, 0x1000);
    full[data + 40..data + 48].copy_from_slice(&0x1000_u64.to_le_bytes());
    full.resize(DATA + 0x1000, 9);
    assert_eq!(lay_out(&full).expect("an image").bytes[0x2fff], 9);
    // The place in memory reaches to the end of what is zero, and not less.
    assert!(lay_out(&sized(zeros + 40, END - BSS)).is_ok());
    assert_eq!(error(&sized(zeros + 40, END - BSS - 1)), contradicts);
    // As large as any may be.
    let large = 16 << 20;
    assert!(lay_out(&sized(zeros + 40, large - 0x3000)).is_ok());
    let beyond = error(&sized(zeros + 40, large - 0x3000 + 1));
    assert_eq!(
        beyond,
        BadFile::Segments("they are not in order, or too large")
    );
}

#[test]
fn an_image_follows_one_of_the_same_place_whose_records_it_reads() {
    let old = ImageHead(head());
    let may = |change: fn(&mut HeadRecord), room| {
        let mut head = head();
        change(&mut head);
        ImageHead(head).may_follow(&old, room)
    };
    assert_eq!(may(|_| (), 0x3000), Ok(()));
    assert_eq!(may(|head| head.end += 0x1000, 0x3000), Ok(()));
    assert_eq!(may(|_| (), 0x2fff), Err(Unfit::TooLarge(0x3000, 0x2fff)));
    let moved = may(|head| head.start = 0x30_0000.into(), 0x3000);
    assert_eq!(moved, Err(Unfit::Place(0x30_0000, START)));
    assert!(may(|head| head.place_end += 0x1000, 0x3000).is_err());
    // Newer, and it reads what the old one wrote: but that could not go on after it.
    let newer = may(|head| head.layout += 1, 0x3000);
    assert_eq!(newer, Ok(()), "the old one reads from its own layout on");
    let apart = may(
        |head| {
            head.layout += 1;
            head.reads += 1;
        },
        0x3000,
    );
    assert_eq!(apart, Err(Unfit::Layout(LAYOUTS.0 + 1, LAYOUTS.0)));
    let older = may(
        |head| {
            head.layout -= 1;
            head.reads -= 1;
        },
        0x3000,
    );
    assert_eq!(older, Err(Unfit::Layout(LAYOUTS.0 - 1, LAYOUTS.0)));
}

#[test]
fn what_is_offered_is_taken_whole_or_not_at_all() {
    let image = lay_out(&file()).expect("an image");
    let page = SharedPages::host(1, 0);
    let offer = ImageOffer::page(&image.bytes, &[5, 6, 7]).expect("an offer");
    assert!(ImageOffer::page(&image.bytes, &[5, 6]).is_none());
    page.write_bytes(0, &offer);
    let room = image.bytes.len() as u64;
    let read = ImageOffer::read(&page, room).expect("an offer");
    assert_eq!((read.len, &read.refs[..]), (room, &[5, 6, 7][..]));
    let larger = ImageOffer::read(&page, room - 1);
    assert_eq!(larger, Err(Unfit::TooLarge(room, room - 1)));
    let pages = SharedPages::host(3, 0);
    pages.write_bytes(0, &image.bytes);
    assert_eq!(read.examine(&pages), Ok(image.head));
    pages
        .u8_at(3 * PAGE_SIZE - 1)
        .store(1, core::sync::atomic::Ordering::Relaxed);
    assert_eq!(read.examine(&pages), Err(Unfit::Checksum));
    // One whose head says that there is more of it.
    let short = &image.bytes[..0x2000];
    let offer = ImageOffer::page(short, &[1, 2]).expect("an offer");
    page.write_bytes(0, &offer);
    pages.write_bytes(0, short);
    let read = ImageOffer::read(&page, room).expect("an offer");
    assert_eq!(read.examine(&pages), Err(Unfit::Length(0x2000, room)));
    // It has a head at least, and lies in the pages that it came in.
    for (len, is_offer) in [(HEAD_LEN, true), (HEAD_LEN - 1, false)] {
        let offer = ImageOffer::page(&image.bytes[..len], &[1]).expect("an offer");
        page.write_bytes(0, &offer);
        assert_eq!(
            ImageOffer::read(&page, room).is_ok(),
            is_offer,
            "{len} bytes"
        );
    }
    page.zero(0, 8);
    assert_eq!(ImageOffer::read(&page, room), Err(Unfit::NoOffer));
}

proptest! {
    #[test]
    fn any_change_of_a_file_is_refused_or_harmless(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut file = file();
        for (at, byte) in changes {
            let at = at.index(NOTES + 24);
            file[at] = byte;
        }
        for file in [&file[..], &file[..cut.index(file.len())]] {
            if let Ok(image) = lay_out(file) {
                prop_assert_eq!(image.bytes.len() as u64, image.head.loaded());
                prop_assert!(image.head.entry() < image.head.bss().start);
            }
        }
    }
}

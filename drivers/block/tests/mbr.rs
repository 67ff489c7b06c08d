//! MBR partition tables, right and hostile, from images in memory.

use proptest::prelude::*;
use spindle_block::{Table, TableReader, TableStep, Unit, Volume, partitions};
use spindle_testkit::image::Image;

const BLOCK: usize = 512;
const DATA: u8 = 0x83;
const EXTENDED: u8 = 0x05;

fn disk(blocks: usize) -> Volume {
    Volume {
        name: "nvme0n1".into(),
        aliases: vec!["nvme-S".into()],
        disk: 0,
        unit: Unit(0),
        start: 0,
        sectors: blocks as u64,
        block_shift: 9,
        physical_block_shift: 9,
        read_only: false,
        write_cache: false,
        discard: None,
        description: String::new(),
        map: None,
    }
}

/// An image of zeros of so many blocks.
fn empty(blocks: usize) -> Vec<u8> {
    vec![0; blocks * BLOCK]
}

/// Makes a block of `image` a record with these entries: type, first block as it is written, blocks.
fn put(image: &mut [u8], block: usize, entries: &[(u8, u32, u32)]) {
    let record = &mut image[block * BLOCK..(block + 1) * BLOCK];
    record[510..].copy_from_slice(&[0x55, 0xaa]);
    for (entry, (kind, first, count)) in record[446..510].chunks_mut(16).zip(entries) {
        entry[4] = *kind;
        entry[8..12].copy_from_slice(&first.to_le_bytes());
        entry[12..].copy_from_slice(&count.to_le_bytes());
    }
}

fn read(image: Vec<u8>) -> Table {
    let disk = disk(image.len() / BLOCK);
    let image = Image {
        bytes: image,
        block_shift: 9,
    };
    let table = partitions(&disk, &mut image.clone()).expect("within the disk");
    assert_eq!(in_steps(disk, image), format!("{table:?}"));
    table
}

/// The same read in steps, without a look at the partitions.
fn in_steps(disk: Volume, mut image: Image) -> String {
    let mut reader = TableReader::new(disk);
    for _ in 0..1000 {
        match reader.step() {
            TableStep::Read { first, bytes } => {
                let mut out = vec![0; bytes];
                let read = spindle_block::Blocks::read(&mut image, first, &mut out);
                reader.add(read.map(|()| out));
            }
            TableStep::Done(table) => return format!("{:?}", table.expect("a table")),
        }
    }
    panic!("it does not end");
}

/// Number, first block and blocks of each partition.
fn places(table: &Table) -> Vec<(u32, u64, u64)> {
    let number = |it: &Volume| it.name["nvme0n1p".len()..].parse().unwrap();
    let parts = table.partitions.iter();
    parts.map(|it| (number(it), it.start, it.sectors)).collect()
}

fn notes(table: &Table) -> String {
    table.notes.join("\n")
}

#[test]
fn a_table_made_by_sfdisk_is_read() {
    let mut image = empty(16384);
    let records = include_bytes!("sfdisk.mbr");
    for (record, at) in records.chunks(BLOCK).zip([0, 4096, 7167, 10239]) {
        image[at * BLOCK..(at + 1) * BLOCK].copy_from_slice(record);
    }
    let table = read(image);
    assert_eq!(table.notes, Vec::<String>::new());
    let expected = [
        (1, 2048, 1024),
        (5, 5120, 1024),
        (6, 7168, 2048),
        (7, 10240, 512),
    ];
    assert_eq!(places(&table), expected);
    let aliases = &table.partitions[2].aliases;
    assert_eq!(aliases[..], ["nvme-S-part6", "PARTUUID=1a2b3c4d-06"]);
}

#[test]
fn a_disk_without_a_signature_has_no_partuuid() {
    let mut image = empty(64);
    put(&mut image, 0, &[(DATA, 8, 8)]);
    assert_eq!(read(image).partitions[0].aliases, ["nvme-S-part1"]);
}

#[test]
fn primary_partitions_out_of_place_are_refused_and_the_others_kept() {
    let mut image = empty(64);
    put(
        &mut image,
        0,
        &[(DATA, 0, 8), (DATA, 8, 8), (DATA, 60, 5), (0, 20, 4)],
    );
    let table = read(image.clone());
    assert_eq!(places(&table), [(2, 8, 8)]);
    assert!(notes(&table).contains("beyond the usable blocks: 1, 3"));
    put(
        &mut image,
        0,
        &[
            (DATA, 1, 8),
            (DATA, 8, 8),
            (DATA, 16, 8),
            (DATA, 24, u32::MAX),
        ],
    );
    let table = read(image.clone());
    assert_eq!(places(&table), [(3, 16, 8)]);
    assert!(notes(&table).contains("overlapping: 1, 2"));
    // What begins a file system, and is no table.
    image[446] = 0x41;
    let table = read(image);
    assert!(
        table.divided && table.partitions.is_empty() && notes(&table).contains("does not hold")
    );
}

#[test]
fn a_gpt_counts_whatever_else_the_record_names() {
    let gpt = spindle_testkit::gpt::Gpt::new(9, 200)
        .with(1, 40, 59, "boot")
        .sealed();
    let mut image = gpt.image();
    put(&mut image, 0, &[(0xee, 1, 199), (DATA, 60, 10)]);
    let table = read(image.clone());
    assert_eq!(places(&table), [(1, 40, 20)]);
    // Nor is it asked what to do if that does not hold.
    image[512..].fill(0);
    assert!(read(image).partitions.is_empty());
}

/// An extended partition of 32 blocks from block 32 on, with two logical ones, and a primary behind it.
fn extended() -> Vec<u8> {
    let mut image = empty(128);
    put(&mut image, 0, &[(EXTENDED, 32, 32), (DATA, 64, 8)]);
    put(&mut image, 32, &[(DATA, 1, 7), (EXTENDED, 8, 8)]);
    put(&mut image, 40, &[(DATA, 2, 6)]);
    image
}

#[test]
fn chains_that_lead_astray_end_where_they_do() {
    assert_eq!(
        places(&read(extended())),
        [(2, 64, 8), (5, 33, 7), (6, 42, 6)]
    );
    for (what, entries, left, note) in [
        (
            "to itself",
            [(DATA, 2, 6), (EXTENDED, 8, 8)],
            vec![5, 6],
            "broken in block 40",
        ),
        (
            "to the start",
            [(DATA, 2, 6), (EXTENDED, 0, 8)],
            vec![5, 6],
            "broken in block 32",
        ),
        (
            "out of it",
            [(DATA, 2, 6), (EXTENDED, 32, 8)],
            vec![5, 6],
            "broken in block 64",
        ),
        (
            "beyond the disk",
            [(DATA, 2, 6), (EXTENDED, u32::MAX, 8)],
            vec![5, 6],
            "broken in",
        ),
        (
            "to no record",
            [(DATA, 2, 6), (EXTENDED, 20, 8)],
            vec![5, 6],
            "broken in block 52",
        ),
        (
            "over the end",
            [(DATA, 2, 23), (0, 0, 0)],
            vec![5],
            "beyond the usable blocks: 6",
        ),
        (
            "over the disk",
            [(DATA, u32::MAX, u32::MAX), (0, 0, 0)],
            vec![5],
            "blocks: 6",
        ),
        (
            "over itself",
            [(DATA, 0, 8), (0, 0, 0)],
            vec![5],
            "overlapping: 6",
        ),
        ("without one", [(0, 0, 0), (0, 0, 0)], vec![5], ""),
        ("one in it", [(EXTENDED, 2, 6), (0, 0, 0)], vec![5], ""),
    ] {
        let mut image = extended();
        put(&mut image, 40, &entries);
        let table = read(image);
        let numbers: Vec<u32> = places(&table).iter().map(|it| it.0).collect();
        assert_eq!(numbers, [vec![2], left].concat(), "{what}");
        assert!(notes(&table).contains(note), "{what}: {table:?}");
    }
    // A logical partition that covers a later block of the chain could say what is there.
    let mut image = extended();
    put(&mut image, 32, &[(DATA, 1, 8), (EXTENDED, 8, 8)]);
    assert_eq!(places(&read(image)), [(2, 64, 8), (6, 42, 6)]);
    // So could a primary one.
    let mut image = extended();
    put(&mut image, 0, &[(EXTENDED, 32, 33), (DATA, 64, 8)]);
    let table = read(image);
    assert!(table.partitions.is_empty() && notes(&table).contains("overlapping: 1, 2"));
    // Only one is looked at.
    let mut image = extended();
    put(&mut image, 0, &[(EXTENDED, 32, 32), (0x0f, 64, 8)]);
    put(&mut image, 64, &[(DATA, 1, 7)]);
    let table = read(image);
    assert_eq!(places(&table), [(5, 33, 7), (6, 42, 6)]);
    assert!(notes(&table).contains("only the first extended"));
}

#[test]
fn what_a_chain_leads_to_is_not_served_even_if_it_is_no_record_yet() {
    let mut image = extended();
    // In the middle of 5, whose guest could make one of it.
    put(&mut image, 32, &[(DATA, 1, 7), (EXTENDED, 4, 8)]);
    let table = read(image);
    assert_eq!(places(&table), [(2, 64, 8)]);
    assert!(
        notes(&table).contains("broken in block 36"),
        "{}",
        notes(&table)
    );
}

#[test]
fn a_record_that_others_would_number_differently_ends_its_chain() {
    for unusual in [
        [(0, 2, 6), (EXTENDED, 16, 8), (0, 0, 0)],
        [(DATA, 2, 6), (DATA, 16, 8), (0, 0, 0)],
        [(DATA, 2, 6), (0, 0, 0), (DATA, 10, 4)],
        [(EXTENDED, 2, 6), (0, 0, 0), (0, 0, 0)],
    ] {
        let mut image = extended();
        put(&mut image, 40, &unusual);
        let table = read(image);
        assert_eq!(places(&table), [(2, 64, 8), (5, 33, 7)], "{unusual:?}");
        assert!(notes(&table).contains("broken in block 40"));
    }
}

#[test]
fn a_chain_is_read_as_far_as_there_is_room_for() {
    const LINKS: u32 = 200;
    let mut image = empty(1024);
    put(&mut image, 0, &[(EXTENDED, 8, 1000)]);
    for link in 0..LINKS {
        let next = [(DATA, 1, 1), (EXTENDED, 2 * link + 2, 2)];
        put(&mut image, 8 + 2 * link as usize, &next);
    }
    let table = read(image);
    assert_eq!(table.partitions.len(), 112);
    assert!(
        notes(&table).contains("only the first 112 logical partitions"),
        "{}",
        notes(&table)
    );
}

proptest! {
    /// What is laid out without a fault is found as it is.
    #[test]
    fn partitions_are_where_they_were_put(
        primary in prop::collection::vec((0u32..9, 1u32..20), 0..4),
        logical in prop::collection::vec((0u32..9, 1u32..9, 1u32..20), 0..30),
        after in 0u32..4,
    ) {
        let mut image = empty(2048);
        let (mut at, mut records, mut expected) = (1, vec![], vec![]);
        for (gap, count) in &primary {
            at += gap;
            records.push((DATA, at, *count));
            expected.push((records.len() as u32, u64::from(at), u64::from(*count)));
            at += count;
        }
        let base = at;
        let mut links = vec![];
        for (gap, inner, count) in &logical {
            // The first is where the extended partition begins.
            at += if links.is_empty() { 0 } else { *gap };
            links.push((at, inner, count));
            expected.push((links.len() as u32 + 4, u64::from(at + inner), u64::from(*count)));
            at += inner + count;
        }
        for (number, (at, inner, count)) in links.iter().enumerate() {
            let next = links.get(number + 1).map_or((0, 0, 0), |it| (EXTENDED, it.0 - base, 1));
            put(&mut image, *at as usize, &[(DATA, **inner, **count), next]);
        }
        if !links.is_empty() {
            records.push((0x85, base, at - base + after));
        }
        put(&mut image, 0, &records);
        let table = read(image);
        prop_assert_eq!(places(&table), expected);
        prop_assert!(table.notes.is_empty());
    }

    /// Whatever records there are, no partition covers another one or a record.
    #[test]
    fn no_partition_covers_another_or_a_record_of_the_chain(
        first in prop::collection::vec((0u8..8, 0u32..70, 0u32..40), 4),
        others in prop::collection::vec((0usize..64, 0u32..70, 0u32..30, 0u32..70), 0..20),
    ) {
        let kind = |it: u8| [0, DATA, DATA, 0x8e, EXTENDED, 0x0f, 0x85, 1][usize::from(it)];
        let mut image = empty(64);
        for (at, start, count, next) in &others {
            put(&mut image, *at, &[(DATA, *start, *count), (EXTENDED, *next, 1)]);
        }
        let first: Vec<_> = first.iter().map(|it| (kind(it.0), it.1, it.2)).collect();
        put(&mut image, 0, &first);
        let table = read(image);
        let end = |it: &Volume| it.start + it.sectors;
        for (at, one) in table.partitions.iter().enumerate() {
            prop_assert!(one.start >= 1 && one.sectors > 0 && end(one) <= 64);
            for other in &table.partitions[..at] {
                prop_assert!(end(one) <= other.start || end(other) <= one.start);
                prop_assert!(one.name != other.name);
            }
        }
        prop_assert!(table.notes.len() <= 7);
    }
}

//! A GUID partition table whose entries were changed behind its headers' backs: each header's own
//! checksum is right, only that of the entries tells.
#![cfg(not(miri))] // Checksums over too many bytes.

use spindle_block::{Table, Unit, Volume, partitions};
use spindle_testkit::gpt::Gpt;
use spindle_testkit::image::Image;

const BLOCKS: u64 = 200;
/// Bytes of an entry, and where its first block's number, its last one's and its name lie
/// (UEFI 2.10, table 5-6).
const ENTRY: usize = 128;
const FIRST_LBA: usize = 32;
const LAST_LBA: usize = 40;
const NAME: usize = 56;

fn read(bytes: Vec<u8>) -> Table {
    let disk = Volume {
        name: "nvme0n1".to_string(),
        aliases: Vec::new(),
        disk: 0,
        unit: Unit(1),
        start: 0,
        sectors: BLOCKS,
        block_shift: 9,
        physical_block_shift: 12,
        read_only: false,
        write_cache: true,
        discard: None,
        description: String::new(),
        map: None,
    };
    let mut image = Image {
        bytes,
        block_shift: 9,
    };
    partitions(&disk, &mut image).unwrap()
}

fn image() -> Vec<u8> {
    let gpt = Gpt::new(9, BLOCKS)
        .with(1, 40, 59, "boot")
        .with(3, 60, 99, "my data");
    gpt.sealed().image()
}

/// First blocks and sizes of the partitions.
fn extents(table: &Table) -> Vec<(u64, u64)> {
    table
        .partitions
        .iter()
        .map(|part| (part.start, part.sectors))
        .collect()
}

#[test]
fn entries_that_their_checksum_does_not_fit_are_not_believed() {
    let good = [(40, 20), (60, 40)];
    assert_eq!(extents(&read(image())), good);
    // The entries begin in block 2, those of the backup 33 blocks before the end.
    let (primary, backup) = (2 * 512, (BLOCKS as usize - 33) * 512);
    for (what, at) in [
        ("a first block", FIRST_LBA),
        ("a last block", LAST_LBA),
        ("a name", NAME),
        ("an entry beyond those in use", 100 * ENTRY + FIRST_LBA),
        ("the last byte", 128 * ENTRY - 1),
    ] {
        let spoil = |bytes: &mut Vec<u8>, table: usize| bytes[table + at] ^= 1;
        let mut bytes = image();
        spoil(&mut bytes, primary);
        let table = read(bytes.clone());
        assert_eq!(extents(&table), good, "{what}: the backup is used");
        let notes = table.notes.join("\n");
        assert!(
            notes.contains("wrong checksum of the entries"),
            "{what}: {notes}"
        );
        spoil(&mut bytes, backup);
        let table = read(bytes);
        assert_eq!(extents(&table), [], "{what}: nothing is left to trust");
        let mut bytes = image();
        spoil(&mut bytes, backup);
        let table = read(bytes);
        assert_eq!(extents(&table), good, "{what}");
        assert!(
            table.notes.join("\n").contains("damaged"),
            "{what}: {:?}",
            table.notes
        );
    }
}

//! The limits and defaults that ctl/docs/limits.md names, held against the constants that set them.
//!
//! Tests beside the code show that a limit has its effect; this one, that what administrators read
//! is the number that is compiled in.

use std::fs;
use std::path::{Path, PathBuf};

use crate::root;

/// A row of the table of limits, by how it begins; a number in its second cell, as it is written
/// there; the folder or file of the constant, its name; and the unit of the number, in the
/// constant's.
type Pin = (&'static str, &'static str, &'static str, &'static str, u64);

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const SECOND: u64 = 1_000_000_000;

const PINS: [Pin; 27] = [
    (
        "devices that a Spindle serves",
        "64",
        "drivers/xen/src",
        "MAX_DEVICES",
        1,
    ),
    (
        "devices of one guest",
        "32",
        "drivers/xen/src",
        "MAX_PER_GUEST",
        1,
    ),
    (
        "guests that are found",
        "256",
        "drivers/xen/src",
        "MAX_SCAN",
        1,
    ),
    (
        "refusals whose reason",
        "32",
        "drivers/xen/src",
        "MAX_ERRORS",
        1,
    ),
    ("rings of one core", "256", "kernel", "MAX_RINGS", 1),
    (
        "rings that a sleeping core waits for",
        "1 ms",
        "kernel",
        "MANY_PORTS_NS",
        1_000_000,
    ),
    ("ring cores", "32 vCPUs", "kernel/src/xen", "VCPUS", 1),
    (
        "pages of a ring",
        "16",
        "drivers/blkif/src/abi.rs",
        "MAX_RING_PAGES",
        1,
    ),
    (
        "segments of a request",
        "11",
        "drivers/blkif/src/abi.rs",
        "MAX_SEGMENTS",
        1,
    ),
    (
        "segments of a request",
        "256 if",
        "drivers/blkif/src/abi.rs",
        "MAX_INDIRECT_SEGMENTS",
        1,
    ),
    (
        "memory for rings and control",
        "4 MiB",
        "kernel",
        "HEAP_MIN",
        MIB,
    ),
    (
        "memory for rings and control",
        "64 MiB",
        "kernel",
        "HEAP_MAX",
        MIB,
    ),
    (
        "memory for rings and control",
        "last 1 MiB",
        "kernel",
        "CONTROLS_SHARE",
        MIB,
    ),
    (
        "`memory` on the PVH route",
        "3,072 MiB",
        "ctl/src",
        "MOST_MEMORY",
        1,
    ),
    (
        "RAM disks, `nvmeN=`",
        "16",
        "drivers/config/src",
        "MAX_NUMBERED",
        1,
    ),
    (
        "namespaces of an NVMe",
        "first 128",
        "drivers/nvme/src",
        "MAX_NAMESPACES",
        1,
    ),
    (
        "partitions of a disk",
        "first 128",
        "drivers/block/src/partition",
        "MAX_PARTITIONS",
        1,
    ),
    (
        "partitions of a disk",
        "1,024",
        "drivers/block/src/partition",
        "MAX_ENTRIES",
        1,
    ),
    (
        "partitions in all",
        "512",
        "kernel/control/src/disks/tables.rs",
        "MOST",
        1,
    ),
    (
        "resets that one command",
        "3",
        "drivers/nvme/src",
        "BLAME_LIMIT",
        1,
    ),
    (
        "time to read a partition",
        "60 s",
        "drivers/block/src/read.rs",
        "PATIENCE_NS",
        SECOND,
    ),
    (
        "the list of a disk's partitions and volumes",
        "1,792",
        "drivers/block/src/target",
        "MAX_BYTES",
        1,
    ),
    ("the node `disks`", "1,792", "kernel", "MAX_LIST", 1),
    (
        "a line of the log",
        "400",
        "kernel/src/log.rs",
        "LINE_MAX",
        1,
    ),
    (
        "time that guests have",
        "of 8 s",
        "kernel",
        "SHUTDOWN_NS",
        SECOND,
    ),
    (
        "tries of a command",
        "5 more",
        "drivers/nvme/src",
        "RETRIES",
        1,
    ),
    (
        "size of the image",
        "748 KiB",
        "xtask/src/kernel.rs",
        "SIZE_LIMIT",
        KIB,
    ),
];

/// Every Rust file of a folder, or the file.
fn sources(at: &Path) -> Vec<PathBuf> {
    if at.is_file() {
        return vec![at.to_path_buf()];
    }
    let entries = fs::read_dir(at).unwrap_or_else(|error| panic!("{}: {error}", at.display()));
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let paths = paths.filter(|path| path.is_dir() || path.extension().is_some_and(|e| e == "rs"));
    paths.flat_map(|path| sources(&path)).collect()
}

/// The value of the only constant of this name: numbers, `*`, `<<`, and the constant `MS`.
fn constant(at: &str, name: &str) -> u64 {
    let mut values = Vec::new();
    for path in sources(&root().join(at)) {
        let text = fs::read_to_string(&path).expect("a source");
        for line in text.lines() {
            let found = line.split_once(&format!("const {name}: "));
            if let Some((_, expression)) = found.and_then(|(_, rest)| rest.split_once(" = ")) {
                values.push(evaluate(expression.trim_end_matches(';')));
            }
        }
    }
    assert_eq!(values.len(), 1, "constants {name} in {at}: {values:?}");
    values[0]
}

fn evaluate(expression: &str) -> u64 {
    let number = |text: &str| match text.trim() {
        "MS" => 1_000_000,
        text => text
            .replace('_', "")
            .parse()
            .unwrap_or_else(|_| panic!("{expression}: not understood")),
    };
    match expression.split_once("<<") {
        Some((left, right)) => evaluate(left) << number(right),
        None => expression.split('*').map(number).product(),
    }
}

#[test]
fn every_limit_of_the_page_is_the_one_that_is_compiled_in() {
    let page = fs::read_to_string(root().join("ctl/docs/limits.md")).expect("the page of limits");
    for (row, number, at, name, unit) in PINS {
        let mut lines = page.lines();
        let line = lines.find(|line| line.starts_with(&format!("| {row}")));
        let line = line.unwrap_or_else(|| panic!("no row for \"{row}\""));
        // Only the cell of the limit: messages beside it may have the same number.
        let cell = line.split('|').nth(2).unwrap_or_default();
        let words = cell.split_whitespace();
        let words: Vec<&str> = words
            .map(|word| word.trim_end_matches([',', ';', ':']))
            .collect();
        let wanted: Vec<&str> = number.split(' ').collect();
        let stated = words.windows(wanted.len()).any(|part| part == wanted);
        assert!(stated, "\"{row}\": the page does not say {number}");
        let digits: String = number.chars().filter(char::is_ascii_digit).collect();
        let said: u64 = digits.parse().expect("a number");
        assert_eq!(said * unit, constant(at, name), "\"{row}\": {name}");
    }
}

#[test]
fn expressions_of_constants_are_understood() {
    assert_eq!(evaluate("8_000_000_000"), 8_000_000_000);
    assert_eq!(evaluate("5_000 * MS"), 5 * SECOND);
    assert_eq!(evaluate("512 * 1024"), 512 * KIB);
    assert_eq!(evaluate("4 << 20"), 4 * MIB);
}
